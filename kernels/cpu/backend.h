// The CPU backend: a thread pool, one table of loops, and working memory. Weights stay as they are.
#pragma once

#include "kernels/backend.h"
#include "kernels/cpu/kernels.h"
#include "kernels/thread_pool.h"

namespace nibble {

class CpuBackend final : public Backend {
 public:
  /// Throws Error{kInvalidArgument} for a target that is not here, or nothing to pin threads to.
  explicit CpuBackend(const CpuOptions& options);
  CpuBackend(int threads, CpuTarget target) : CpuBackend({.threads = threads, .target = to_string(target)}) {}

  void make_room(std::uint64_t, std::size_t) override {}
  Weight prepare(const Weight& weight, const Storage& target, std::string_view name) override;
  Weight make_random(const RandomWeight& weight) override;
  Buffer upload(Buffer buffer) override;
  Buffer allocate(std::size_t bytes) override;
  void reserve(const Extent& extent) override;
  std::size_t scratch_bytes() const override;
  void wait() override {}
  bool works_in_background() const override { return false; }
  std::span<const int> chosen(int steps_back) override { return steps_back == 0 ? chosen_ : chosen_before_; }
  void repeat(std::uint64_t, const std::function<void()>& verbs) override { verbs(); }
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

  template <class T>
  void normalise(const LayerNorm& norm, Tensor x, Tensor y, int row);
  template <class T, class F>
  void project(Tensor x, std::span<const Segment> segments, std::span<const Projection> projections, F&& complete);
  template <class T, class Layout, class F>
  void project_alike(const ProductWay<Layout, T>& way, Tensor x, int begin, int rows,
                     std::span<const Projection> projections, F&& complete);
  template <class T>
  void append(Tensor rows, int layer, const KvCache& cache, Buffer& destination);
  template <class T>
  void attend_heads(Tensor q, int layer, const KvCache& cache, Tensor y);

  template <class F>
  void for_rows(int rows, int cols, F&& f);
  template <class T>
  const DTypeKernels<T>& loops() const {
    return kernels_;
  }
  template <class T, class Layout>
  const LinearKernels<Layout, T>& linear_loops() const {
    if constexpr (std::is_same_v<Layout, Int8Row>) {
      if (int8_activations_) return loops<T>().int8_activations;
    }
    return loops<T>();
  }
  std::byte* thread_scratch(int thread);
  void grow_scratch(std::size_t packed, std::size_t thread);

  /// Rows [first, last) of w of one of the linears that are done together.
  struct Piece {
    std::size_t linear;
    int first, last;
  };

  CpuTarget target_;
  const CpuKernels& kernels_;
  bool int8_activations_;
  ThreadPool pool_;
  Buffer packed_;                 // rows of x in the order the loops read
  Buffer scratch_;                // a stretch for each thread
  std::size_t thread_bytes_ = 0;  // of that stretch
  std::vector<Piece> pieces_;     // of the linears being done
  std::vector<int> chosen_, chosen_before_;
};

}  // namespace nibble
