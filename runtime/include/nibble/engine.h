// A model, loaded: weights in the scheme and on the device asked for, its configuration and its tokenizer.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "nibble/memory.h"
#include "nibble/progress.h"
#include "nibble/session.h"
#include "nibble/types.h"

namespace nibble {

struct LoadOptions {
  std::optional<Scheme> scheme = {};               ///< absent: as the checkpoint stores its weights
  std::optional<DType> compute_dtype = {};         ///< fp32, fp16 or bf16; absent: the checkpoint's own
  std::optional<EmbeddingStorage> embedding = {};  ///< absent: as the checkpoint stores it
  std::optional<int> blocksize = {};  ///< of 4-bit schemes, 32 to 4096; absent: as stored, or if made here 64, int4 128
  Device device = Device::kCpu;
  int threads = 0;              ///< 0: one a core
  std::string cpu_target = {};  ///< portable, avx2, avx512, avx512-vnni, avx512-bf16 or amx; empty: the fastest here
  bool pin_threads = false;  ///< CPU: each thread but the caller's on a core of its own, of those the process may use
  bool int8_activations = false;  ///< CPU, scheme int8: x rounded to 8 bits a row, as by LLM.int8() without outliers
  std::uint64_t seed = 0;         ///< for synthetic models
};

/// What a model is, from its configuration and its files' headers.
struct ModelInfo {
  std::string name;          ///< the checkpoint directory's path, normalized, or "synthetic:opt-…"
  std::string architecture;  ///< "opt"
  Scheme scheme;
  DType compute_dtype;
  EmbeddingStorage embedding;
  int layers, hidden_size, ffn_dim, heads, vocab_size, context;  ///< context: most tokens a sequence may have
  bool has_tokenizer;
};

/// Immutable once open; may be shared by threads. Copies share one model.
class Engine {
 public:
  /// `model` is a checkpoint directory or "synthetic:opt-SIZE" (125m, 350m, 1.3b, 2.7b, 6.7b, 13b, 30b, 66b, 175b),
  /// which is made up from `seed`. Throws Error.
  static Engine open(const std::string& model, const LoadOptions& options = {}, const Progress& progress = {});

  const ModelInfo& info() const;
  /// The checkpoint's own generation settings (generation_config.json), greedy where it says nothing.
  GenerateOptions default_options() const;
  /// Ids of a text, between those that the checkpoint puts before and behind every one (OPT: `</s>` and none). These
  /// and detokenize throw Error{kUnsupported} without a tokenizer.
  std::vector<int> tokenize(std::string_view text) const;
  std::vector<int> prefix_tokens() const;
  std::vector<int> suffix_tokens() const;
  std::string detokenize(std::span<const int> tokens) const;
  /// Allocates a cache and a workspace, so it throws Error{kOutOfMemory} when they do not fit.
  Session session(const SessionOptions& options = {}) const;

  struct Impl;

 private:
  explicit Engine(std::shared_ptr<const Impl> impl) : impl_(std::move(impl)) {}
  std::shared_ptr<const Impl> impl_;
};

/// The ledger such a model and session would have. Reads headers and GPTQ's zero points, but no weights.
MemoryLedger predict_memory(const std::string& model, const LoadOptions& load = {}, const SessionOptions& session = {});
/// Without weights too: Engine::info, and what Session::generate asks of a prompt. Throw Error.
ModelInfo describe_model(const std::string& model, const LoadOptions& load = {});
void check_prompt(std::span<const int> prompt, const ModelInfo& info, const SessionOptions& session);

std::string_view version();  ///< "nibble 0.1.0"

}  // namespace nibble
