// What a device can do: about a dozen verbs. Preconditions are checked here, once, for every backend, so that none can
// be stricter than another; the virtual do_* functions may rely on them.
//
// Activations are Tensors of the backend's compute dtype. Every operation accumulates in fp32 and rounds its result to
// the compute dtype once for each step named in its comment. A row's result depends on nothing but that row: not on the
// other rows of the call, and not on the number of threads.
#pragma once

#include <memory>
#include <optional>
#include <span>

#include "kernels/kv_cache.h"
#include "kernels/layout/weight.h"

namespace nibble {

/// `activation_function` of transformers' OPTConfig.
enum class Activation : std::uint8_t { kIdentity, kRelu, kGelu, kGeluTanh, kSilu, kQuickGelu, kRelu2, kRelu6 };

/// y = x w^T + bias. `bias` is [n] in the compute dtype, or empty.
struct Linear {
  Weight weight;  ///< [n, k]
  Buffer bias;
};

/// Normalises rows to mean 0 and variance 1 (epsilon 1e-5), then scales and shifts. `weight` and `bias` are [cols] in
/// the compute dtype, or empty where the model has no affine parameters.
struct LayerNorm {
  Buffer weight, bias;
  int cols;
};

/// What happens to a linear's result, in this order, each step rounding: bias is already in; times `scale`, then
/// `activation`, then added to `residual` (which may be y itself).
struct Epilogue {
  float scale = 1.0F;
  Activation activation = Activation::kIdentity;
  std::optional<Tensor> residual = {};
};

/// Consecutive rows of a batch that belong to one sequence: rows [first_row, first_row + rows) are its tokens
/// [past, past + rows), and the cache already holds the `past` tokens before them.
struct Segment {
  int sequence;
  int first_row;
  int rows;
  int past;
};

/// One instance serves one thread at a time; it owns the threads or the stream that do its work.
class Backend {
 public:
  virtual ~Backend() = default;

  /// Moves a weight to the device, into the order its kernels read; on the CPU the weight itself.
  virtual Weight prepare(Weight weight) = 0;
  /// Moves other parameters (biases, LayerNorms) to the device; on the CPU the buffer itself.
  virtual Buffer upload(Buffer buffer) = 0;
  /// Working memory on the device, not initialised. Throws Error{kOutOfMemory}.
  virtual Buffer allocate(std::size_t bytes) = 0;
  /// Makes the backend's own working memory large enough for calls of up to `max_rows` rows of up to `max_cols` columns
  /// and a cache of `context` tokens, so that none is allocated later. Larger calls grow it.
  virtual void reserve(int max_rows, int max_cols, int context) = 0;
  /// Bytes of that working memory now.
  virtual std::size_t scratch_bytes() const = 0;

  /// y[r] = table[ids[r]]. Ids must be inside the table.
  void embed(const Weight& table, std::span<const int> ids, Tensor y);
  /// y[r] += table[ids[r]]: positions.
  void add_embedding(const Weight& table, std::span<const int> ids, Tensor y);
  /// y may be x.
  void layer_norm(const LayerNorm& norm, Tensor x, Tensor y);
  void linear(const Linear& linear, Tensor x, Tensor y, const Epilogue& epilogue = {});
  /// Appends k and v [rows, heads * head_dim] to the cache and lets every row of q see its sequence up to itself:
  /// y = softmax(q k^T) v a head, softmax in fp32. q is scaled already. The segments cover all rows.
  void attend(Tensor q, Tensor k, Tensor v, std::span<const Segment> segments, int layer, KvCache& cache, Tensor y);
  /// y[i] = x[rows[i]]
  void gather_rows(Tensor x, std::span<const int> rows, Tensor y);
  /// Copies x to the host, widened to fp32.
  void copy_to_host(Tensor x, std::span<float> values);

  /// One line saying what this backend runs on, for people: instruction set and threads, or the GPU's name.
  virtual std::string description() const = 0;

 private:
  virtual void do_embed(const Weight& table, std::span<const int> ids, Tensor y) = 0;
  virtual void do_add_embedding(const Weight& table, std::span<const int> ids, Tensor y) = 0;
  virtual void do_layer_norm(const LayerNorm& norm, Tensor x, Tensor y) = 0;
  virtual void do_linear(const Linear& linear, Tensor x, Tensor y, const Epilogue& epilogue) = 0;
  virtual void do_attend(Tensor q, Tensor k, Tensor v, std::span<const Segment> segments, int layer, KvCache& cache,
                         Tensor y) = 0;
  virtual void do_gather_rows(Tensor x, std::span<const int> rows, Tensor y) = 0;
  virtual void do_copy_to_host(Tensor x, std::span<float> values) = 0;
};

/// `threads` 0: one a core. Throws Error{kUnsupported} when the device is not in this build, Error{kNotFound} when the
/// machine has none.
std::unique_ptr<Backend> make_backend(Device device, int threads);
std::unique_ptr<Backend> make_cpu_backend(int threads);

/// What a CPU backend's scratch_bytes() is after reserve(max_rows, max_cols, context).
std::size_t cpu_scratch_bytes(int threads, int max_rows, int max_cols, int context);
std::unique_ptr<Backend> make_cuda_backend();

}  // namespace nibble
