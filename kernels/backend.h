// What a device can do: about a dozen verbs. Preconditions are checked here, once, for every backend, so that none can
// be stricter than another; the virtual do_* functions may rely on them.
//
// Activations are Tensors of the backend's compute dtype. Every operation accumulates in fp32 and rounds its result to
// the compute dtype once for each step named in its comment. A row's result depends on its own segment alone: not on
// the other segments of the call, and not on the number of threads (README.md, exceptions too).
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/activation.h"
#include "kernels/kv_cache.h"
#include "kernels/random_weight.h"
#include "kernels/sampling.h"
#include "kernels/storage.h"

namespace nibble {

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
/// `activation`, then added to `residual`, which may be y itself where there is neither scale nor activation.
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

/// In place of a token that is not known yet: the one that output `output` of the step before chooses.
constexpr int chosen_before(std::size_t output) { return ~static_cast<int>(output); }
/// The output that such a token comes from.
NIBBLE_HD int output_before(int token) { return ~token; }

/// The tokens of one step, in rows, grouped by sequence.
struct Batch {
  std::span<const int> tokens;           ///< [rows]; may be chosen_before
  std::span<const int> positions;        ///< [rows], from 0 in each sequence
  std::span<const Segment> segments;     ///< cover the rows in order
  std::span<const int> outputs = {};     ///< [at most rows]; whose results are wanted, see gather_outputs
  std::span<const Choice> choices = {};  ///< [outputs], or none where no token is chosen
};

/// One of the linears that read the same x.
struct Projection {
  const Linear& linear;
  Tensor y;
  Epilogue epilogue = {};
};

/// The most that calls will have to do with.
struct Extent {
  int rows = 0;        ///< of a batch
  int cols = 0;        ///< of an activation
  int context = 0;     ///< tokens of a sequence in the cache
  int sequences = 0;   ///< of a batch
  int vocabulary = 0;  ///< logits of a row
  int head_dim = 0;    ///< columns of a head

  friend bool operator==(const Extent&, const Extent&) = default;
};

/// How rows of segments of `from` tokens and more, up to the next way's, are multiplied by a weight.
struct LinearWay {
  int from;
  std::string name;
};

/// One instance serves one thread at a time; it owns the threads or the streams that do its work. Verbs may return
/// before their work is done; wait, copy_to_host and chosen wait for it.
class Backend {
 public:
  virtual ~Backend() = default;

  /// Makes room for what is asked for next: `buffers` buffers of `bytes` together, in one allocation. Nothing on the
  /// CPU. Throws Error{kOutOfMemory}.
  virtual void make_room(std::uint64_t bytes, std::size_t buffers) = 0;
  /// A weight on the device, kept as `target` says and in the order its kernels read; on the CPU the weight itself
  /// where it is kept so already. Throws what `store` throws.
  virtual Weight prepare(const Weight& weight, const Storage& target, std::string_view name) = 0;
  /// The same of a weight that stays as it is.
  Weight prepare(const Weight& weight);
  /// A made-up weight on the device.
  virtual Weight make_random(const RandomWeight& weight) = 0;
  /// Moves other parameters (biases, LayerNorms) to the device; on the CPU the buffer itself.
  virtual Buffer upload(Buffer buffer) = 0;
  /// Working memory on the device, not initialised. Throws Error{kOutOfMemory}.
  virtual Buffer allocate(std::size_t bytes) = 0;
  /// Makes the backend's own working memory large enough for calls of that extent, so that none is allocated later.
  /// Larger calls grow it.
  virtual void reserve(const Extent& extent) = 0;
  /// Bytes of that working memory now.
  virtual std::size_t scratch_bytes() const = 0;
  /// Waits until everything asked for is done. Throws when something went wrong on the way.
  virtual void wait() = 0;
  /// Whether verbs return before their work is done, so that the next step can be asked for while this one is computed.
  virtual bool works_in_background() const = 0;

  /// Begins a step: embed, add_positions, project, attend, gather_outputs and choose are about this batch until the
  /// next call. Where it has tokens that the step before chooses, that one must have called choose.
  void begin(const Batch& batch);

  /// y[r] = table[tokens[r]]
  void embed(const Weight& table, Tensor y);
  /// y[r] += table[positions[r] + offset]
  void add_positions(const Weight& table, int offset, Tensor y);
  /// Several linears of one x, whose rows are the batch's. Sums of segments of more than 16 rows may have another order
  /// than when each is projected alone.
  void project(Tensor x, std::span<const Projection> projections);
  /// The same of normed = norm(x).
  void project(const LayerNorm& norm, Tensor x, Tensor normed, std::span<const Projection> projections);
  /// One linear of any rows, each computed as in a step of one token.
  void linear(const Linear& linear, Tensor x, Tensor y, const Epilogue& epilogue = {});
  /// The same of normed = norm(x).
  void linear(const LayerNorm& norm, const Linear& linear, Tensor x, Tensor normed, Tensor y);
  /// Appends k and v [rows, heads * head_dim] to the cache and lets every row of q see its sequence up to itself:
  /// y = softmax(q k^T) v a head, softmax in fp32. q is scaled already.
  void attend(Tensor q, Tensor k, Tensor v, int layer, KvCache& cache, Tensor y);
  /// y[i] = x[outputs[i]]
  void gather_outputs(Tensor x, Tensor y);
  /// Chooses a token for each of the batch's choices from its row of logits, as kernels/sampling.h says.
  void choose(Tensor logits);
  /// What choose chose in the step that was begun `steps_back` before the last one, 0 or 1. Waits for that step, not
  /// for one behind it. Valid until the second step behind it begins.
  virtual std::span<const int> chosen(int steps_back) = 0;
  /// Copies x to the host, widened to fp32.
  void copy_to_host(Tensor x, std::span<float> values);

  /// Calls `verbs`, or does again what they did when they were called under this `key` for a batch of the same shape.
  /// They may differ in nothing but what `begin` was given, and must not wait for their work.
  virtual void repeat(std::uint64_t key, const std::function<void()>& verbs) = 0;

  /// The ways of linears of this weight, a prepared one, of which `together` like it are projected together, with
  /// results of `compute_dtype`; for people.
  virtual std::vector<LinearWay> ways(const Weight& weight, int together, DType compute_dtype) const = 0;

  /// One line saying what this backend runs on, for people: instruction set and threads, or the GPU's name.
  virtual std::string description() const = 0;

 protected:
  /// The batch of this step; the backend's own copy.
  const Batch& batch() const { return batch_; }
  /// Puts in its tokens what the step before chose, where the backend knows that.
  void fill_in_tokens(std::span<const int> chosen);

 private:
  virtual void do_begin() = 0;
  virtual void do_embed(const Weight& table, Tensor y) = 0;
  virtual void do_add_positions(const Weight& table, int offset, Tensor y) = 0;
  virtual void do_project(Tensor x, std::span<const Projection> projections) = 0;
  virtual void do_norm_project(const LayerNorm& norm, Tensor x, Tensor normed,
                               std::span<const Projection> projections) = 0;
  virtual void do_linear(const Projection& projection, Tensor x) = 0;
  virtual void do_norm_linear(const LayerNorm& norm, const Projection& projection, Tensor x, Tensor normed) = 0;
  virtual void do_attend(Tensor q, Tensor k, Tensor v, int layer, KvCache& cache, Tensor y) = 0;
  virtual void do_gather_outputs(Tensor x, Tensor y) = 0;
  virtual void do_choose(Tensor logits) = 0;
  virtual void do_copy_to_host(Tensor x, std::span<float> values) = 0;

  Batch batch_;
  int vocabulary_ = 0;     // logits of a row that choose chose from
  int largest_token_ = 0;  // that the batch may have
  std::vector<int> tokens_, positions_, outputs_;
  std::vector<Segment> segments_;
  std::vector<Choice> choices_;
};

/// How a CPU computes.
struct CpuOptions {
  int threads = 0;                ///< 0: one a core; with a GPU they bring weights to it
  std::string_view target = {};   ///< an instruction set; empty: the fastest here
  bool pin_threads = false;       ///< each thread but the caller's on a core of its own
  bool int8_activations = false;  ///< x rounded to 8 bits a row where it meets Int8Row weights
};

/// Throws Error{kUnsupported} when the device is not in this build, Error{kNotFound} when the machine has none,
/// Error{kInvalidArgument} when there is nothing to pin threads to, or for what the device does not do.
std::unique_ptr<Backend> make_backend(Device device, const CpuOptions& cpu = {});
std::unique_ptr<Backend> make_cpu_backend(const CpuOptions& options = {});
std::unique_ptr<Backend> make_cuda_backend(int threads = 0);

/// What the backend's scratch_bytes() is after reserve(extent).
std::size_t scratch_bytes(Device device, int threads, const Extent& extent);
std::size_t cpu_scratch_bytes(int threads, const Extent& extent);
std::size_t cuda_scratch_bytes(const Extent& extent);

/// Bytes the device could still give, and bytes in use that no backend of this process asked for: the driver's, the
/// kernels', other processes'. Throw as make_backend does.
std::uint64_t cuda_available_memory();
std::uint64_t cuda_overhead_memory();

}  // namespace nibble
