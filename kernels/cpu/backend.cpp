#include "kernels/cpu/backend.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>
#include <string>

#include "kernels/dispatch.h"

namespace nibble {
namespace {

/// Elements of a row operation that are worth a task of their own.
constexpr int kTaskElements = 1 << 14;

/// Linears of one x that are done together: more than the three of attention.
constexpr std::size_t kMostAlike = 4;

constexpr std::size_t kCacheLine = 64;

/// Of rows in sixteens, as tiles have them.
std::size_t packed_bytes(int rows, int cols) {
  return static_cast<std::size_t>(std::min(padded_to(rows, 16), kPackedRows)) * packed_row_bytes(cols);
}

std::size_t whole_lines(std::size_t bytes) { return (bytes + kCacheLine - 1) / kCacheLine * kCacheLine; }

/// What one thread needs.
std::size_t thread_bytes(const Extent& extent) {
  return whole_lines(std::max({kMultiplyScratchBytes, attend_scratch_bytes(extent.context, extent.head_dim),
                               choose_scratch_bytes(extent.vocabulary)}));
}

std::size_t row_bytes(const Tensor& x) { return static_cast<std::size_t>(x.cols) * size_of(x.dtype); }

/// Nothing is left to do for a row of x. The callers of `project` that pass it share one instance of its code.
constexpr auto kComplete = [](int) {};

template <class T>
const T* parameters(const Buffer& buffer) {
  return buffer.size() == 0 ? nullptr : buffer.as<T>();
}

/// Calls f(first, rows, many) for consecutive rows of segments that are all up to `most_few` rows long, or all longer.
template <class F>
void for_runs(int rows, std::span<const Segment> segments, int most_few, F&& f) {
  int first = 0;
  bool many = false;
  for (const Segment& segment : segments) {
    const bool longer = segment.rows > most_few;
    if (longer != many && segment.first_row > first) {
      f(first, segment.first_row - first, many);
      first = segment.first_row;
    }
    many = longer;
  }
  f(first, rows - first, many);
}

}  // namespace

CpuBackend::CpuBackend(const CpuOptions& options)
    : target_(options.target.empty() ? fastest_target() : parse_cpu_target(options.target)),
      kernels_(cpu_kernels(target_)),
      int8_activations_(options.int8_activations),
      pool_(options.threads) {
  if (options.pin_threads) pool_.pin();
}

Weight CpuBackend::prepare(const Weight& weight, const Storage& target, std::string_view name) {
  return store(weight, target, name, pool_);
}

Weight CpuBackend::make_random(const RandomWeight& weight) { return make_random_weight(weight, pool_); }

Buffer CpuBackend::upload(Buffer buffer) { return buffer; }

Buffer CpuBackend::allocate(std::size_t bytes) { return Buffer::allocate(bytes); }

void CpuBackend::reserve(const Extent& extent) {
  grow_scratch(packed_bytes(extent.rows, extent.cols), thread_bytes(extent));
}

std::size_t CpuBackend::scratch_bytes() const { return packed_.size() + scratch_.size(); }

std::vector<LinearWay> CpuBackend::ways(const Weight& weight, int, DType compute_dtype) const {
  const int most_few = with_dtype(compute_dtype, [&](auto tag) {
    return with_layout(weight, [&]<class Layout>(const Layout&) {
      return linear_loops<typename decltype(tag)::type, Layout>().most_few;
    });
  });
  const std::string target(to_string(target_));
  if (most_few == std::numeric_limits<int>::max()) return {{1, target}};
  return {{1, target + ", lanes"}, {most_few + 1, target + ", tiles"}};
}

std::string CpuBackend::description() const {
  return "CPU, " + std::string(to_string(target_)) + ", " + std::to_string(pool_.threads()) +
         (pool_.threads() == 1 ? " thread" : " threads");
}

void CpuBackend::grow_scratch(std::size_t packed, std::size_t thread) {
  if (packed > packed_.size()) {
    packed_ = {};
    packed_ = Buffer::allocate(packed);
  }
  if (thread > thread_bytes_) {
    scratch_ = {};
    thread_bytes_ = 0;
    scratch_ = Buffer::allocate(static_cast<std::size_t>(pool_.threads()) * thread);
    thread_bytes_ = thread;
  }
}

std::byte* CpuBackend::thread_scratch(int thread) {
  return scratch_.mutable_as<std::byte>() + static_cast<std::size_t>(thread) * thread_bytes_;
}

/// Calls f(row) for rows of `cols` elements, several rows a task.
template <class F>
void CpuBackend::for_rows(int rows, int cols, F&& f) {
  const int step = std::max(1, kTaskElements / std::max(cols, 1));
  pool_.run((rows + step - 1) / step, [&](int task) {
    const int last = std::min(rows, (task + 1) * step);
    for (int row = task * step; row < last; ++row) f(row);
  });
}

void CpuBackend::do_begin() {
  std::swap(chosen_, chosen_before_);
  fill_in_tokens(chosen_before_);
  chosen_.assign(batch().choices.size(), 0);
}

void CpuBackend::do_embed(const Weight& table, Tensor y) {
  with_dtype(y.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    with_layout(table, [&]<class Layout>(const Layout& layout) {
      const LinearKernels<Layout, T>& kernels = loops<T>();
      for_rows(y.rows, y.cols, [&](int row) {
        kernels.decode_row(layout.view(), batch().tokens[static_cast<std::size_t>(row)], y.row<T>(row));
      });
    });
  });
}

void CpuBackend::do_add_positions(const Weight& table, int offset, Tensor y) {
  grow_scratch(0, whole_lines(row_bytes(y)));
  with_dtype(y.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    with_layout(table, [&]<class Layout>(const Layout& layout) {
      const LinearKernels<Layout, T>& kernels = loops<T>();
      pool_.run(y.rows, [&](int row, int thread) {
        auto* position = reinterpret_cast<T*>(thread_scratch(thread));
        kernels.decode_row(layout.view(), batch().positions[static_cast<std::size_t>(row)] + offset, position);
        loops<T>().add(position, y.cols, y.row<T>(row));
      });
    });
  });
}

template <class T>
void CpuBackend::normalise(const LayerNorm& norm, Tensor x, Tensor y, int row) {
  loops<T>().layer_norm(x.row<T>(row), parameters<T>(norm.weight), parameters<T>(norm.bias), x.cols, y.row<T>(row));
}

void CpuBackend::do_project(Tensor x, std::span<const Projection> projections) {
  with_dtype(x.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    project<T>(x, batch().segments, projections, kComplete);
  });
}

void CpuBackend::do_norm_project(const LayerNorm& norm, Tensor x, Tensor normed,
                                 std::span<const Projection> projections) {
  with_dtype(x.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    project<T>(normed, batch().segments, projections, [&](int row) { normalise<T>(norm, x, normed, row); });
  });
}

void CpuBackend::do_linear(const Projection& projection, Tensor x) {
  with_dtype(x.dtype, [&](auto tag) { project<typename decltype(tag)::type>(x, {}, {&projection, 1}, kComplete); });
}

void CpuBackend::do_norm_linear(const LayerNorm& norm, const Projection& projection, Tensor x, Tensor normed) {
  with_dtype(x.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    project<T>(normed, {}, {&projection, 1}, [&](int row) { normalise<T>(norm, x, normed, row); });
  });
}

/// Linears of one x, in runs of one layout. `complete(row)` is called before a row of x is first read. Rows of no
/// segment are few.
template <class T, class F>
void CpuBackend::project(Tensor x, std::span<const Segment> segments, std::span<const Projection> projections,
                         F&& complete) {
  bool first = true;
  while (!projections.empty()) {
    const Weight& weight = projections.front().linear.weight;
    std::size_t count = 1;
    while (count < std::min(projections.size(), kMostAlike) &&
           projections[count].linear.weight.index() == weight.index()) {
      ++count;
    }
    with_layout(weight, [&]<class Layout>(const Layout&) {
      const LinearKernels<Layout, T>& kernels = linear_loops<T, Layout>();
      for_runs(x.rows, segments, kernels.most_few, [&](int begin, int rows, bool many) {
        project_alike<T, Layout>(many ? kernels.many : kernels.few, x, begin, rows, projections.first(count),
                                 [&](int row) {
                                   if (first) complete(row);
                                 });
      });
    });
    projections = projections.subspan(count);
    first = false;
  }
}

/// Rows [begin, begin + rows) of linears of one layout, which share the packed rows of x and the threads' work.
template <class T, class Layout, class F>
void CpuBackend::project_alike(const ProductWay<Layout, T>& way, Tensor x, int begin, int rows,
                               std::span<const Projection> projections, F&& complete) {
  grow_scratch(packed_bytes(x.rows, x.cols), thread_bytes({}));
  void* packed = packed_.mutable_as<void>();
  int columns = 0;
  for (const Projection& projection : projections) columns += projection.y.cols;
  Turn turn{};
  for (int first = begin; first < begin + rows; first += turn.rows) {
    turn = way.turn(begin + rows - first);
    for_rows((turn.rows + way.pack_rows - 1) / way.pack_rows, way.pack_rows * x.cols, [&](int stretch) {
      const int row = stretch * way.pack_rows;
      for (int i = row; i < std::min(turn.rows, row + way.pack_rows); ++i) complete(first + i);
      way.pack(x.row<T>(first + row), x.cols, turn.rows, row, packed);
    });
    std::array<LinearTask<Layout, T>, kMostAlike> tasks;
    pieces_.clear();
    int left = columns;
    for (std::size_t i = 0; i < projections.size(); ++i) {
      const auto& [linear, y, epilogue] = projections[i];
      tasks[i] = {std::get<Layout>(linear.weight).view(),
                  packed,
                  turn.rows,
                  parameters<T>(linear.bias),
                  epilogue.scale,
                  epilogue.activation,
                  epilogue.residual ? epilogue.residual->row<T>(first) : nullptr,
                  y.row<T>(first)};
      // A part of what is left, so that the last pieces are small and threads that differ in speed end together; each
      // reads all of x, so none is a crumb.
      for (int from = 0, to = 0; from < y.cols; left -= to - from, from = to) {
        const int share =
            padded_to(std::max(left / (2 * pool_.threads() - 1), columns / (16 * pool_.threads())), kPanelRows);
        to = std::min(y.cols, from + std::clamp(share, kPanelRows, turn.task_rows));
        pieces_.push_back({i, from, to});
      }
    }
    pool_.run(static_cast<int>(pieces_.size()), [&](int task, int thread) {
      const Piece& piece = pieces_[static_cast<std::size_t>(task)];
      way.multiply(tasks[piece.linear], piece.first, piece.last, thread_scratch(thread));
    });
  }
}

void CpuBackend::do_attend(Tensor q, Tensor k, Tensor v, int layer, KvCache& cache, Tensor y) {
  with_dtype(q.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    append<T>(k, layer, cache, cache.keys);
    append<T>(v, layer, cache, cache.values);
    attend_heads<T>(q, layer, cache, y);
  });
}

/// Copies rows [tokens, heads * head_dim] to where the cache keeps each head's.
template <class T>
void CpuBackend::append(Tensor rows, int layer, const KvCache& cache, Buffer& destination) {
  const std::ptrdiff_t head_dim = cache.head_dim;
  for (const Segment& segment : batch().segments) {
    for_rows(segment.rows, rows.cols, [&](int row) {
      const T* source = rows.row<T>(segment.first_row + row);
      for (int head = 0; head < cache.heads; ++head) {
        T* place = destination.mutable_as<T>() + cache.offset(layer, segment.sequence, head);
        std::memcpy(place + (segment.past + row) * head_dim, source + head * head_dim,
                    static_cast<std::size_t>(head_dim) * sizeof(T));
      }
    });
  }
}

template <class T>
void CpuBackend::attend_heads(Tensor q, int layer, const KvCache& cache, Tensor y) {
  const std::span<const Segment> segments = batch().segments;
  grow_scratch(0, whole_lines(attend_scratch_bytes(cache.context, cache.head_dim)));
  const auto way_of = [&](const Segment& segment) -> const AttendWay<T>& {
    return segment.rows > loops<T>().most_few_queries ? loops<T>().attend_many : loops<T>().attend_few;
  };
  int blocks = 0;
  for (const Segment& segment : segments) {
    const int queries = way_of(segment).queries;
    blocks = std::max(blocks, (segment.rows + queries - 1) / queries);
  }
  const int tasks_a_segment = cache.heads * blocks;
  pool_.run(static_cast<int>(segments.size()) * tasks_a_segment, [&](int task, int thread) {
    const Segment& segment = segments[static_cast<std::size_t>(task / tasks_a_segment)];
    const int head = task % cache.heads;
    // The last queries see the most keys and come first, so that no thread is left with a long task at the end.
    const int block = blocks - 1 - task % tasks_a_segment / cache.heads;
    const AttendWay<T>& way = way_of(segment);
    const int first = block * way.queries;
    if (first >= segment.rows) return;
    const std::int64_t place = cache.offset(layer, segment.sequence, head);
    const std::ptrdiff_t column = static_cast<std::ptrdiff_t>(head) * cache.head_dim;
    way.attend({q.row<T>(segment.first_row + first) + column, cache.keys.as<T>() + place, cache.values.as<T>() + place,
                y.row<T>(segment.first_row + first) + column, q.cols, cache.head_dim,
                std::min(way.queries, segment.rows - first), segment.past + first},
               reinterpret_cast<float*>(thread_scratch(thread)));
  });
}

void CpuBackend::do_gather_outputs(Tensor x, Tensor y) {
  for_rows(y.rows, y.cols, [&](int row) {
    std::memcpy(
        y.row<std::byte>(0) + static_cast<std::size_t>(row) * row_bytes(y),
        x.row<std::byte>(0) + static_cast<std::size_t>(batch().outputs[static_cast<std::size_t>(row)]) * row_bytes(x),
        row_bytes(x));
  });
}

void CpuBackend::do_choose(Tensor logits) {
  grow_scratch(0, whole_lines(choose_scratch_bytes(logits.cols)));
  with_dtype(logits.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    pool_.run(logits.rows, [&](int row, int thread) {
      const auto i = static_cast<std::size_t>(row);
      const Choice& choice = batch().choices[i];
      chosen_[i] = loops<T>().choose(logits.row<T>(row), logits.cols, Draw(choice), choice.seen.data(),
                                     choice.seen.size(), thread_scratch(thread));
    });
  });
}

void CpuBackend::do_copy_to_host(Tensor x, std::span<float> values) {
  with_dtype(x.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    for_rows(x.rows, x.cols, [&](int row) {
      const auto cols = static_cast<std::size_t>(x.cols);
      loops<T>().widen(x.row<T>(row), cols, values.data() + static_cast<std::size_t>(row) * cols);
    });
  });
}

std::unique_ptr<Backend> make_cpu_backend(const CpuOptions& options) { return std::make_unique<CpuBackend>(options); }

std::size_t cpu_scratch_bytes(int threads, const Extent& extent) {
  return packed_bytes(extent.rows, extent.cols) +
         static_cast<std::size_t>(resolve_threads(threads)) * thread_bytes(extent);
}

}  // namespace nibble
