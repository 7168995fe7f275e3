#include "kernels/cuda/backend.h"

#include <algorithm>
#include <cstring>

#include "kernels/cuda/device.h"
#include "kernels/cuda/encode.h"
#include "kernels/cuda/repack.h"
#include "kernels/cuda/rows.h"
#include "kernels/dispatch.h"

namespace nibble {
namespace {

/// Rows of a batch are a dimension of grids.
constexpr std::size_t kMostBatchRows = 65535;

/// Room for a batch: tokens, positions, sequence_of, slot_of and outputs, then segments, each of up to `rows`.
std::size_t batch_bytes(int rows) { return static_cast<std::size_t>(rows) * (5 * sizeof(int) + sizeof(Segment)); }

/// What stands behind a batch: choices, then the ids that they have seen, each as many as a cache holds.
std::size_t choices_bytes(std::size_t sequences, std::size_t context) {
  return sequences * (sizeof(DeviceChoice) + context * sizeof(int));
}

/// Where they begin.
std::size_t choices_place(int rows) {
  return (batch_bytes(rows) + alignof(DeviceChoice) - 1) / alignof(DeviceChoice) * alignof(DeviceChoice);
}

/// Where what is chosen from them begins.
std::size_t chosen_place(const Extent& e) {
  return choices_place(e.rows) +
         choices_bytes(static_cast<std::size_t>(e.sequences), static_cast<std::size_t>(e.context));
}

std::size_t slot_bytes(const Extent& e) {
  const std::size_t bytes = chosen_place(e) + static_cast<std::size_t>(e.sequences) * sizeof(int);
  return (bytes + 255) / 256 * 256;
}

Extent larger(const Extent& a, const Extent& b) {
  return {std::max(a.rows, b.rows),
          std::max(a.cols, b.cols),
          std::max(a.context, b.context),
          std::max(a.sequences, b.sequences),
          std::max(a.vocabulary, b.vocabulary),
          std::max(a.head_dim, b.head_dim)};
}

/// Parts of the scratch memory, one behind the other.
struct Scratch {
  std::size_t workspace, counts, expand, slots, bytes;

  explicit Scratch(const Extent& extent) {
    bytes = 0;
    const auto place = [this](std::size_t size) {
      const std::size_t at = bytes;
      bytes += (size + 255) / 256 * 256;
      return at;
    };
    workspace = place(Matmul::kWorkspaceBytes);
    counts = place(WorkingMemory::kCountBytes);
    expand = place(expand_bytes(extent.cols));
    slots = place(2 * slot_bytes(extent));
  }
};

}  // namespace

CudaBackend::CudaBackend(int threads) {
  const GpuFacts gpu = look_for_gpu();
  require_usable(gpu);
  name_ = gpu.name;
  stream_ = make_stream();
  for (Slot& slot : slots_) slot.done = make_event();
  sending_.emplace();
  launch_ = {stream_.get(), gpu.multiprocessors, gpu.major == 9 && gpu.minor == 0};
  memory_ = std::make_unique<DeviceMemory>(stream_.get(), threads);
}

CudaBackend::~CudaBackend() { cudaStreamSynchronize(stream_.get()); }

void CudaBackend::make_room(std::uint64_t bytes, std::size_t buffers) { memory_->make_room(bytes, buffers); }

Weight CudaBackend::prepare(const Weight& weight, const Storage& target, std::string_view name) {
  return to_device(weight, target, name, *memory_);
}

Weight CudaBackend::make_random(const RandomWeight& weight) { return random_on_device(weight, *memory_); }

Buffer CudaBackend::upload(Buffer buffer) { return memory_->upload(buffer); }

Buffer CudaBackend::allocate(std::size_t bytes) { return memory_->allocate(bytes); }

void CudaBackend::reserve(const Extent& extent) {
  if (grow(extent) && !batch().tokens.empty()) send_batch();  // what the device knew of the batch has gone
}

bool CudaBackend::grow(const Extent& extent) {
  const Extent wanted = larger(extent_, extent);
  if (wanted == extent_) return false;
  wait();
  graphs_.clear();
  scratch_ = {};
  extent_ = {};
  const Scratch places(wanted);
  scratch_ = memory_->allocate(places.bytes);
  auto* base = scratch_.mutable_as<std::byte>();
  working_ = {{base + places.expand, places.slots - places.expand}, reinterpret_cast<int*>(base + places.counts)};
  check(cudaMemsetAsync(working_.counts, 0, WorkingMemory::kCountBytes, stream_.get()), "clearing counts");
  matmul_.use_workspace(base + places.workspace);

  Buffer pinned = pinned_memory(2 * slot_bytes(wanted));
  for (std::size_t i = 0; i < slots_.size(); ++i) {
    Slot& slot = slots_[i];
    const Chosen before = slot.chosen;
    slot.memory = base + places.slots + i * slot_bytes(wanted);
    slot.pinned = pinned.mutable_as<std::byte>() + i * slot_bytes(wanted);
    slot.chosen = {reinterpret_cast<int*>(slot.memory + chosen_place(wanted)),
                   reinterpret_cast<int*>(slot.pinned + chosen_place(wanted))};
    std::copy_n(before.on_host, slot.choices, slot.chosen.on_host);
  }
  pinned_ = std::move(pinned);
  extent_ = wanted;
  fill_in_tokens({slot(1).chosen.on_host, slot(1).choices});  // the device does not have them any more
  return true;
}

std::size_t CudaBackend::scratch_bytes() const { return scratch_.size(); }

std::vector<LinearWay> CudaBackend::ways(const Weight& weight, int together, DType compute_dtype) const {
  return with_dtype(compute_dtype,
                    [&](auto tag) { return linear_ways<typename decltype(tag)::type>(launch_, weight, together); });
}

void CudaBackend::wait() { check(cudaStreamSynchronize(stream_.get()), "waiting for the device"); }

std::string CudaBackend::description() const { return "CUDA, " + name_; }

void CudaBackend::do_begin() {
  if (batch().tokens.size() > kMostBatchRows) {
    throw Error(ErrorKind::kUnsupported, "device cuda: expected at most " + std::to_string(kMostBatchRows) +
                                             " tokens in a step, found " + std::to_string(batch().tokens.size()));
  }
  check(cudaEventRecord(slot(0).done.get(), stream_.get()), "ending a step");
  turn_ ^= 1U;
  check(cudaEventSynchronize(slot(0).done.get()), "waiting for the device");  // may still read what stands there
  std::size_t most_seen = 0;
  for (const Choice& choice : batch().choices) most_seen = std::max(most_seen, choice.seen.size());
  grow({.rows = static_cast<int>(batch().tokens.size()),
        .context = static_cast<int>(most_seen),
        .sequences = static_cast<int>(std::max(batch().segments.size(), batch().choices.size()))});
  send_batch();
}

void CudaBackend::send_batch() {
  const auto rows = static_cast<int>(batch().tokens.size());
  shape_ = {rows, static_cast<int>(batch().segments.size()), 0, 1, false, false};
  runs_.clear();
  auto* values = reinterpret_cast<int*>(slot(0).pinned);
  const auto put = [&](auto&& fill) {
    const int* const place = values;
    fill(values);
    values += rows;
    return slot(0).on_device(place);
  };
  device_batch_.tokens = put([&](int* p) { std::ranges::copy(batch().tokens, p); });
  device_batch_.positions = put([&](int* p) { std::ranges::copy(batch().positions, p); });
  const auto each_row = [&](auto&& value) {
    return [&, value](int* p) {
      for (const Segment& s : batch().segments) {
        for (int i = 0; i < s.rows; ++i) *p++ = value(s, i);
      }
    };
  };
  device_batch_.sequence_of = put(each_row([](const Segment& s, int) { return s.sequence; }));
  device_batch_.slot_of = put(each_row([](const Segment& s, int i) { return s.past + i; }));
  device_batch_.outputs = put([&](int* p) { std::ranges::copy(batch().outputs, p); });
  device_batch_.segments = reinterpret_cast<const Segment*>(
      put([&](int* p) { std::memcpy(p, batch().segments.data(), batch().segments.size_bytes()); }));
  const std::size_t bytes = put_choices(choices_place(rows));
  // Beside the steps; where none is under way, in front of this one, which takes 3 us less.
  const bool beside = cudaStreamQuery(stream_.get()) != cudaSuccess;
  check(cudaMemcpyAsync(slot(0).memory, slot(0).pinned, bytes, cudaMemcpyHostToDevice,
                        beside ? sending_->stream() : stream_.get()),
        "sending a batch");
  if (beside) {
    sending_->mark();
    sending_->join(stream_.get());
  }
  slot(0).choices = batch().choices.size();

  for (const Segment& segment : batch().segments) {
    const Length length = length_of(segment.rows);
    shape_.longest = std::max(shape_.longest, segment.rows);
    if (segment.rows == 1) shape_.parts = std::max(shape_.parts, attention_parts(segment.past + 1));
    (segment.rows == 1 ? shape_.any_single : shape_.any_longer) = true;
    if (!runs_.empty() && runs_.back().length == length) {
      runs_.back().rows += segment.rows;
    } else {
      runs_.push_back({segment.first_row, segment.rows, length});
    }
  }
}

std::size_t CudaBackend::put_choices(std::size_t place) {
  auto* const choices = reinterpret_cast<DeviceChoice*>(slot(0).pinned + place);
  auto* const seen = reinterpret_cast<int*>(choices + batch().choices.size());
  int count = 0;
  for (std::size_t i = 0; i < batch().choices.size(); ++i) {
    const Choice& choice = batch().choices[i];
    std::ranges::copy(choice.seen, seen + count);
    const int begin = count;
    count += static_cast<int>(choice.seen.size());
    choices[i] = {Draw(choice), begin, count};
  }
  choices_ = slot(0).on_device(choices);
  seen_ids_ = slot(0).on_device(seen);
  return static_cast<std::size_t>(reinterpret_cast<std::byte*>(seen + count) - slot(0).pinned);
}

void CudaBackend::do_embed(const Weight& table, Tensor y) {
  with_dtype(y.dtype, [&](auto tag) {
    look_up_rows<typename decltype(tag)::type>(launch_, table, device_batch_.tokens, slot(1).chosen.on_device, 0, false,
                                               y);
  });
}

void CudaBackend::do_add_positions(const Weight& table, int offset, Tensor y) {
  with_dtype(y.dtype, [&](auto tag) {
    look_up_rows<typename decltype(tag)::type>(launch_, table, device_batch_.positions, nullptr, offset, true, y);
  });
}

void CudaBackend::project(const Normed* norm, Tensor x, std::span<const RowRun> runs,
                          std::span<const Projection> projections) {
  reserve({.cols = x.cols});
  with_dtype(x.dtype, [&](auto tag) {
    linears<typename decltype(tag)::type>(launch_, matmul_, working_, norm, x, runs, projections);
  });
}

void CudaBackend::do_project(Tensor x, std::span<const Projection> projections) {
  project(nullptr, x, runs_, projections);
}

void CudaBackend::do_norm_project(const LayerNorm& norm, Tensor x, Tensor normed,
                                  std::span<const Projection> projections) {
  const Normed by{norm, normed};
  project(&by, x, runs_, projections);
}

void CudaBackend::do_linear(const Projection& projection, Tensor x) {
  const RowRun all{0, x.rows, Length::kFew};
  project(nullptr, x, {&all, 1}, {&projection, 1});
}

void CudaBackend::do_norm_linear(const LayerNorm& norm, const Projection& projection, Tensor x, Tensor normed) {
  const Normed by{norm, normed};
  const RowRun all{0, x.rows, Length::kFew};
  project(&by, x, {&all, 1}, {&projection, 1});
}

void CudaBackend::do_attend(Tensor q, Tensor k, Tensor v, int layer, KvCache& cache, Tensor y) {
  if (cache.head_dim > kMostHeadDim) {
    throw Error(ErrorKind::kUnsupported, "device cuda: expected heads of at most " + std::to_string(kMostHeadDim) +
                                             " numbers, found " + std::to_string(cache.head_dim));
  }
  with_dtype(q.dtype, [&](auto tag) {
    attend_on_device<typename decltype(tag)::type>(launch_, device_batch_, shape_, q, k, v, layer, cache, y);
  });
}

void CudaBackend::do_gather_outputs(Tensor x, Tensor y) { gather_rows(launch_, x, device_batch_.outputs, y); }

void CudaBackend::do_choose(Tensor logits) {
  if (logits.rows == 0) return;
  with_dtype(logits.dtype, [&](auto tag) {
    choose_tokens<typename decltype(tag)::type>(launch_, logits, choices_, seen_ids_, slot(0).chosen);
  });
}

std::span<const int> CudaBackend::chosen(int steps_back) {
  const Slot& step = slot(steps_back);
  if (step.choices == 0) return {};
  if (steps_back == 0) {
    wait();
  } else {
    check(cudaEventSynchronize(step.done.get()), "waiting for the device");
  }
  return {step.chosen.on_host, step.choices};
}

void CudaBackend::do_copy_to_host(Tensor x, std::span<float> values) {
  const std::size_t bytes = x.bytes();
  std::vector<std::byte> raw(x.dtype == DType::kF32 ? 0 : bytes);
  void* to = x.dtype == DType::kF32 ? static_cast<void*>(values.data()) : raw.data();
  check(cudaMemcpyAsync(to, x.data, bytes, cudaMemcpyDeviceToHost, stream_.get()), "copying results");
  check(cudaStreamSynchronize(stream_.get()), "waiting for the device");
  if (x.dtype == DType::kF32) return;
  with_dtype(x.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    const auto* from = reinterpret_cast<const T*>(raw.data());
    for (std::size_t i = 0; i < values.size(); ++i) values[i] = to_float(from[i]);
  });
}

void CudaBackend::repeat(std::uint64_t key, const std::function<void()>& verbs) {
  // Only steps of one token a sequence come again and again in the same shape. The first one is plain: it finds out
  // what working memory they need, and may stay the only one.
  if (shape_.any_longer || shape_.rows == 0) return verbs();
  const GraphKey step{key, shape_, static_cast<int>(batch().outputs.size())};
  const auto [place, is_new] = graphs_.try_emplace(step);
  if (is_new) return verbs();
  GraphExec& graph = place->second[turn_];
  if (graph == nullptr) graph = record(verbs);
  check(cudaGraphLaunch(graph.get(), stream_.get()), "launching a step");
}

GraphExec CudaBackend::record(const std::function<void()>& verbs) {
  check(cudaStreamBeginCapture(stream_.get(), cudaStreamCaptureModeThreadLocal), "recording a step");
  cudaGraph_t graph = nullptr;
  try {
    verbs();
  } catch (...) {
    if (cudaStreamEndCapture(stream_.get(), &graph) == cudaSuccess && graph != nullptr) cudaGraphDestroy(graph);
    throw;
  }
  check(cudaStreamEndCapture(stream_.get(), &graph), "recording a step");
  cudaGraphExec_t executable = nullptr;
  const cudaError_t status = cudaGraphInstantiate(&executable, graph, 0);
  cudaGraphDestroy(graph);
  check(status, "preparing a step");
  return GraphExec(executable);
}

std::unique_ptr<Backend> make_cuda_backend(int threads) { return std::make_unique<CudaBackend>(threads); }

std::size_t cuda_scratch_bytes(const Extent& extent) { return Scratch(extent).bytes; }

}  // namespace nibble
