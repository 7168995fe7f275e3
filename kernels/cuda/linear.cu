// Which path a linear takes. Rows of segments of one to sixteen tokens, and outputs, go the decode way, all together
// where there is a kernel for it, or sixteen at a time; rows of longer segments the fused way or that of expanded
// weights, as ways.h says. So a sequence's results do not depend on the others of its batch. Int8Decomp weights have a
// way of their own for all rows.
#include "kernels/cuda/linear.h"

#include "kernels/cuda/linear_decomp.h"
#include "kernels/cuda/linear_expand.cuh"
#include "kernels/cuda/linear_fused.h"
#include "kernels/cuda/linear_plain.cuh"
#include "kernels/cuda/linears.h"
#include "kernels/cuda/norm.cuh"
#include "kernels/cuda/rows.h"
#include "kernels/dispatch.h"

namespace nibble {
namespace {

/// Whether the decode path has kernels for the layout.
template <class T, class Layout>
constexpr bool kDecodes = !std::is_same_v<Layout, Dense<float>> && !std::is_same_v<Layout, Dense<Half>> &&
                          !std::is_same_v<Layout, Dense<BFloat16>>;
template <class T>
constexpr bool kDecodes<T, Dense<T>> = true;
template <class Value>
constexpr bool kDecodes<float, Dense<Value>> = true;
template <>
inline constexpr bool kDecodes<float, Dense<float>> = true;
template <class T>
constexpr bool kDecodes<T, Int8Decomp> = false;

/// Whether the fused path has.
template <class T, class Layout>
constexpr bool kFuses = sizeof(T) == 2 && kDecodes<T, Layout> && !std::is_same_v<Layout, Dense<T>>;

/// Whether short segments' rows, more than linear_few takes, can go together: the sharers' columns have to come out
/// even in batches.
template <class T, class Layout>
bool crowds(const Launch& launch, const Layout& weight) {
  if constexpr (sizeof(T) == 2 && kDecodes<T, Layout>) {
    return launch.is_hopper && is_tiled(weight) && batches_of_sharer<TileView<Layout>>(weight.k) > 0;
  }
  return false;
}

/// Whether two weights can share a launch: what kernels keep once must be the same.
template <class Layout>
bool alike(const Layout&, const Layout&) {
  return true;
}
template <class Scale>
bool alike(const Lut4<Scale>& a, const Lut4<Scale>& b) {
  return a.blocksize == b.blocksize &&
         std::equal(a.levels.template as<float>(), a.levels.template as<float>() + 16, b.levels.template as<float>());
}

/// How many of the first projections one launch of the decode path can take: those whose weights are alike.
template <class Layout>
std::size_t count_alike(std::span<const Projection> projections) {
  const auto fits = [&](const Projection& p) {
    const Layout* weight = std::get_if<Layout>(&p.linear.weight);
    return weight != nullptr && is_tiled(*weight) && alike(*weight, std::get<Layout>(projections[0].linear.weight));
  };
  std::size_t count = 0;
  while (count < std::min<std::size_t>(projections.size(), kMostProjections) && fits(projections[count])) ++count;
  return count;
}

/// How many of the first projections one launch of the fused path can take.
template <class Layout>
std::size_t count_fused(std::span<const Projection> projections) {
  const std::size_t alike = count_alike<Layout>(projections);
  const auto rows_of = [&](std::size_t i) { return std::get<Layout>(projections[i].linear.weight).n; };
  std::size_t count = 1;
  while (count < alike && rows_of(count) == rows_of(0)) ++count;
  return count;
}

/// How many of the first projections, whose weights are Int8Decomp, one launch of LLM.int8()'s way can take.
std::size_t count_decomp(std::span<const Projection> projections) {
  const bool tiled = is_tiled(std::get<Int8Decomp>(projections[0].linear.weight));
  const auto fits = [&](const Projection& p) {
    const auto* weight = std::get_if<Int8Decomp>(&p.linear.weight);
    return weight != nullptr && is_tiled(*weight) == tiled;
  };
  std::size_t count = 1;
  while (count < std::min<std::size_t>(projections.size(), kMostProjections) && fits(projections[count])) ++count;
  return count;
}

/// What linears read: rows of x, or their LayerNorm, which is written to norm->y once, before they are first read or on
/// the way into a kernel that can.
template <class T>
class Input {
 public:
  Input(const Launch& launch, const Normed* norm, Tensor x, int first_row, int rows)
      : launch_(launch), norm_(norm), x_(x), first_row_(first_row), rows_(rows) {}

  Tensor read() {
    if (norm_ == nullptr) return x_;
    if (!written_) {
      normalise_rows<T>(launch_, norm_->norm, x_.slice(first_row_, rows_), norm_->y.slice(first_row_, rows_));
    }
    written_ = true;
    return norm_->y;
  }
  /// What is still to be done, or null, and with what.
  const Normed* norm() const { return written_ ? nullptr : norm_; }
  Tensor x() const { return written_ ? norm_->y : x_; }

  /// Calls f with the norm, if one is still to be done, which returns whether it has been; whether it has.
  template <class F>
  bool normalise_on_the_way(F&& f) {
    if (norm_ == nullptr || written_) return false;
    return written_ = f(NormView<T>(norm_->norm, norm_->y));
  }
  /// Calls f with the norm to be done on the way into lines, or null, and x.
  template <class F>
  void bring_into_lines(F&& f) {
    const auto normed = [&](const NormView<T>& view) {
      if (x_.cols > kMostNormColumns) return false;
      f(&view, x_);
      return true;
    };
    if (!normalise_on_the_way(normed)) f(static_cast<const NormView<T>*>(nullptr), read());
  }

 private:
  const Launch& launch_;
  const Normed* norm_;
  Tensor x_;
  int first_row_, rows_;
  bool written_ = false;
};

/// Up to kDecodeRows rows.
template <class T>
void few_rows(const Launch& launch, std::span<std::byte> room, const Normed* norm, Tensor x, int first_row, int rows,
              std::span<const Projection> projections) {
  Input<T> input(launch, norm, x, first_row, rows);
  while (!projections.empty()) {
    std::size_t taken = 0;
    with_layout(projections[0].linear.weight, [&]<class Layout>(const Layout&) {
      if constexpr (std::is_same_v<Layout, Int8Decomp>) {
        taken = count_decomp(projections);
        linear_decomp<T>(launch, room, input.read(), first_row, rows, projections.first(taken));
      } else if constexpr (kDecodes<T, Layout>) {
        taken = count_alike<Layout>(projections);
        if (taken == 0) return;
        const auto some = projections.first(taken);
        if (rows == 1) {
          const auto decode = [&](const NormView<T>& view) {
            return linear_decode<T, Layout>(launch, &view, x, first_row, some);
          };
          if (input.normalise_on_the_way(decode)) return;
          if (linear_decode<T, Layout>(launch, nullptr, input.read(), first_row, some)) return;
        }
        const auto few = [&](const NormView<T>& view) {
          return linear_few<T, Layout>(launch, &view, x, first_row, rows, some);
        };
        if (input.normalise_on_the_way(few)) return;
        linear_few<T, Layout>(launch, nullptr, input.read(), first_row, rows, some);
      }
    });
    if (taken == 0) {
      with_layout(projections[0].linear.weight, [&]<class Layout>(const Layout&) {
        linear_plain<T, Layout>(launch, input.read(), first_row, rows, projections[0]);
      });
      taken = 1;
    }
    projections = projections.subspan(taken);
  }
}

template <class T>
void in_turns(const Launch& launch, std::span<std::byte> room, const Normed* norm, Tensor x, int first_row, int rows,
              std::span<const Projection> projections) {
  for (int done = 0; done < rows; done += kDecodeRows) {
    few_rows<T>(launch, room, norm, x, first_row + done, std::min(kDecodeRows, rows - done), projections);
  }
}

/// Rows of short segments, and outputs: those that one launch of the decode path takes, and more.
template <class T>
void short_rows(const Launch& launch, const WorkingMemory& memory, const Normed* norm, Tensor x, const RowRun& run,
                std::span<const Projection> projections) {
  Input<T> input(launch, norm, x, run.first, run.rows);
  const auto together = [&]<class Layout>(const Layout& weight) -> std::size_t {
    if constexpr (sizeof(T) == 2 && kDecodes<T, Layout>) {
      if (!crowds<T>(launch, weight)) return 0;
      const auto some = projections.first(count_fused<Layout>(projections));
      input.bring_into_lines([&](const NormView<T>* view, Tensor rows) {
        linear_crowd<T, Layout>(launch, memory, view, rows, run.first, run.rows, some);
      });
      return some.size();
    }
    return 0;
  };
  while (run.rows > kDecodeRows && !projections.empty()) {
    const std::size_t taken = with_layout(projections[0].linear.weight, together);
    if (taken == 0) break;
    projections = projections.subspan(taken);
  }
  if (!projections.empty()) in_turns<T>(launch, memory.room, input.norm(), input.x(), run.first, run.rows, projections);
}

/// How the fused way divides the columns of so many linears for rows of segments of this length, in no parts where it
/// is not theirs.
template <class T, class Layout>
Split split_of(const Launch& launch, int linears, Length length, const Layout& weight) {
  if constexpr (kFuses<T, Layout>) {
    if (launch.is_hopper && is_tiled(weight)) return fused_split(linears, weight.n, weight.k, length);
  }
  return {.parts = 0};
}

template <class T>
void many_rows(const Launch& launch, Matmul& matmul, const WorkingMemory& memory, const Normed* norm, Tensor x,
               const RowRun& run, std::span<const Projection> projections) {
  Input<T> input(launch, norm, x, run.first, run.rows);
  while (!projections.empty()) {
    const auto multiply = [&]<class Layout>(const Layout& weight) -> std::size_t {
      if constexpr (std::is_same_v<Layout, Int8Decomp>) {
        const std::size_t taken = count_decomp(projections);
        linear_decomp<T>(launch, memory.room, input.read(), run.first, run.rows, projections.first(taken));
        return taken;
      } else if constexpr (kFuses<T, Layout>) {
        const auto some = projections.first(count_fused<Layout>(projections));
        const Split split = split_of<T>(launch, static_cast<int>(some.size()), run.length, weight);
        if (split.parts > 0) {
          input.bring_into_lines([&](const NormView<T>* view, Tensor rows) {
            linear_fused<T, Layout>(launch, memory, view, rows, run.first, run.rows, split, some);
          });
          return some.size();
        }
      }
      linear_expand<T, Layout>(launch, matmul, memory.room, input.read(), run.first, run.rows, run.length,
                               projections[0]);
      return 1;
    };
    projections = projections.subspan(with_layout(projections[0].linear.weight, multiply));
  }
}

}  // namespace

template <class T>
void linears(const Launch& launch, Matmul& matmul, const WorkingMemory& memory, const Normed* norm, Tensor x,
             std::span<const RowRun> runs, std::span<const Projection> projections) {
  for (const RowRun& run : runs) {
    if (run.length == Length::kFew) {
      short_rows<T>(launch, memory, norm, x, run, projections);
      continue;
    }
    many_rows<T>(launch, matmul, memory, norm, x, run, projections);
  }
}

template <class T>
std::vector<LinearWay> linear_ways(const Launch& launch, const Weight& weight, int together) {
  if (std::holds_alternative<Int8Decomp>(weight)) return {{1, "LLM.int8()"}};
  return with_layout(weight, [&]<class Layout>(const Layout& w) {
    std::vector<LinearWay> ways = {{1, crowds<T>(launch, w)                 ? "decode, together"
                                       : kDecodes<T, Layout> && is_tiled(w) ? "decode"
                                                                            : "plain"}};
    const std::string many = std::is_same_v<Layout, Dense<T>> ? "cuBLASLt" : "expand, cuBLASLt";
    for (std::size_t i = 1; i < std::size(kMostRows); ++i) {
      const Split split = split_of<T>(launch, together, static_cast<Length>(i), w);
      const std::string name = split.parts == 0 ? many : "fused, k / " + std::to_string(split.parts);
      if (name != ways.back().name) ways.push_back({kMostRows[i - 1] + 1, name});
    }
    return ways;
  });
}

std::size_t expand_bytes(int most_cols) {
  // In OPT a weight of so many columns has a quarter as many rows. Products of fewer are too small for the machine.
  constexpr std::size_t kLeast = std::size_t{16} << 20, kMost = std::size_t{128} << 20;
  const auto cols = static_cast<std::size_t>(most_cols);
  return std::max({std::clamp(cols * cols / 4 * sizeof(Half), kLeast, kMost), kMostTileColumns * cols * sizeof(float),
                   decomp_bytes(kTileRows, most_cols)});
}

template void linears<float>(const Launch&, Matmul&, const WorkingMemory&, const Normed*, Tensor,
                             std::span<const RowRun>, std::span<const Projection>);
template void linears<Half>(const Launch&, Matmul&, const WorkingMemory&, const Normed*, Tensor,
                            std::span<const RowRun>, std::span<const Projection>);
template void linears<BFloat16>(const Launch&, Matmul&, const WorkingMemory&, const Normed*, Tensor,
                                std::span<const RowRun>, std::span<const Projection>);

template std::vector<LinearWay> linear_ways<float>(const Launch&, const Weight&, int);
template std::vector<LinearWay> linear_ways<Half>(const Launch&, const Weight&, int);
template std::vector<LinearWay> linear_ways<BFloat16>(const Launch&, const Weight&, int);

}  // namespace nibble
