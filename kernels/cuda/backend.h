// The CUDA backend: a stream of steps, working memory, and recorded steps. Weights stand in tiles, see tiles.cuh.
#pragma once

#include <array>
#include <map>
#include <memory>
#include <optional>
#include <tuple>

#include "kernels/backend.h"
#include "kernels/cuda/attention.h"
#include "kernels/cuda/lane.h"
#include "kernels/cuda/linears.h"
#include "kernels/cuda/matmul.h"
#include "kernels/cuda/memory.h"
#include "kernels/cuda/sampling.h"

namespace nibble {

class CudaBackend final : public Backend {
 public:
  explicit CudaBackend(int threads);
  ~CudaBackend() override;
  CudaBackend(const CudaBackend&) = delete;
  CudaBackend& operator=(const CudaBackend&) = delete;

  void make_room(std::uint64_t bytes, std::size_t buffers) override;
  Weight prepare(const Weight& weight, const Storage& target, std::string_view name) override;
  Weight make_random(const RandomWeight& weight) override;
  Buffer upload(Buffer buffer) override;
  Buffer allocate(std::size_t bytes) override;
  void reserve(const Extent& extent) override;
  std::size_t scratch_bytes() const override;
  void wait() override;
  bool works_in_background() const override { return true; }
  std::span<const int> chosen(int steps_back) override;
  void repeat(std::uint64_t key, const std::function<void()>& verbs) override;
  std::vector<LinearWay> ways(const Weight& weight, int together, DType compute_dtype) const override;
  std::string description() const override;

 private:
  void do_begin() override;
  void do_embed(const Weight& table, Tensor y) override;
  void do_add_positions(const Weight& table, int offset, Tensor y) override;
  void do_project(Tensor x, std::span<const Projection> projections) override;
  void do_norm_project(const LayerNorm& norm, Tensor x, Tensor normed,
                       std::span<const Projection> projections) override;
  void do_linear(const Projection& projection, Tensor x) override;
  void do_norm_linear(const LayerNorm& norm, const Projection& projection, Tensor x, Tensor normed) override;
  void do_attend(Tensor q, Tensor k, Tensor v, int layer, KvCache& cache, Tensor y) override;
  void do_gather_outputs(Tensor x, Tensor y) override;
  void do_choose(Tensor logits) override;
  void do_copy_to_host(Tensor x, std::span<float> values) override;

  void project(const Normed* norm, Tensor x, std::span<const RowRun> runs, std::span<const Projection> projections);
  GraphExec record(const std::function<void()>& verbs);
  /// Whether working memory had to be made anew for calls of that extent.
  bool grow(const Extent& extent);
  void send_batch();
  /// Puts the choices behind the batch; where they end.
  std::size_t put_choices(std::size_t place);

  /// What a step has for itself. There are two, used in turn, so that a step is sent while the one before is computed.
  struct Slot {
    std::byte* memory = nullptr;  // the batch, then what choose chose
    std::byte* pinned = nullptr;  // the same on the host
    Chosen chosen{};
    std::size_t choices = 0;
    Event done;  // when the device has nothing more to do for the step; noted when the next one begins

    /// Where something in pinned memory is on the device.
    template <class T>
    const T* on_device(const T* pinned_value) const {
      return reinterpret_cast<const T*>(memory + (reinterpret_cast<const std::byte*>(pinned_value) - pinned));
    }
  };
  Slot& slot(int steps_back) { return slots_[turn_ ^ static_cast<unsigned>(steps_back)]; }

  using GraphKey = std::tuple<std::uint64_t, BatchShape, int>;  // key, shape, outputs

  std::string name_;
  Stream stream_;
  std::optional<Lane> sending_;  // of batches
  Launch launch_{};
  std::unique_ptr<DeviceMemory> memory_;
  Matmul matmul_;

  Extent extent_;  // what the working memory is made for
  Buffer scratch_;
  WorkingMemory working_{};
  Buffer pinned_;
  std::array<Slot, 2> slots_;
  unsigned turn_ = 0;  // the slot of this step

  BatchShape shape_{};
  std::vector<RowRun> runs_;
  DeviceBatch device_batch_{};
  const DeviceChoice* choices_ = nullptr;  // on the device
  const int* seen_ids_ = nullptr;
  std::map<GraphKey, std::array<GraphExec, 2>> graphs_;  // of steps that have been done before, for each slot
};

}  // namespace nibble
