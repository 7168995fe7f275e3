// The parameters an OPT-architecture model has, by name and shape, and how each is to be kept in memory. Loading, the
// memory ledger, inspection and quantization all walk this one list.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "models/config.h"
#include "models/source.h"
#include "nibble/memory.h"

namespace nibble {

struct Parameter {
  enum class Kind : std::uint8_t {
    kLinear,      ///< a matrix that schemes quantize
    kTokenTable,  ///< the token embedding
    kHead,        ///< an untied output head
    kPositions,   ///< the position embedding
    kVector,      ///< a bias or LayerNorm parameter: one row
  };

  Kind kind;
  std::string name;  ///< matrices without ".weight", vectors in full; as in source.h
  int n, k;          ///< a vector has n = 1

  MemoryClass memory_class() const;
  std::int64_t elements() const { return static_cast<std::int64_t>(n) * k; }
};

/// The configuration as the tensors have it where published files contradict themselves, whether there are biases and
/// LayerNorm parameters: a model is without them where no layer has one. Throws Error{kFormat} when the tensors have
/// another number of layers than config.json says.
ModelConfig resolve_config(const ParameterSource& source);

/// The name of the matrix that token ids are looked up in: "decoder.embed_tokens", or "lm_head" in files that kept only
/// that one of the tied pair.
std::string token_table_name(const ParameterSource& source);

/// All parameters of a model of this (resolved) configuration, in the order they are used.
std::vector<Parameter> list_parameters(const ModelConfig& config, const ParameterSource& source);

/// The parameters of the source's model, each of which is there, matrices in the shape that config.json gives them.
/// Throws Error{kFormat} naming the first that is not.
std::vector<Parameter> find_parameters(const ParameterSource& source);

/// What a load asks for.
struct StoragePolicy {
  std::optional<Scheme> scheme;  ///< absent: every linear as it is stored
  DType compute_dtype;
  std::optional<EmbeddingStorage> embedding;  ///< absent: as it is stored
  std::optional<int> blocksize;  ///< of 4-bit schemes; absent: as they are stored, or else their own default
};

/// How `parameter`, a matrix kept as `stored` where it comes from, is to be kept. Values that are 16-bit where they
/// come from stay so under fp32 compute: widening them changes nothing and doubles their size. Throws
/// Error{kInvalidArgument} for a block size other than that of a weight that is in the scheme already.
Storage target_storage(const StoragePolicy& policy, const Parameter& parameter, const Storage& stored);

/// The same for a matrix of `source`. Throws Error{kInvalidArgument} where it is quantized there and would have to be
/// quantized again.
Storage target_storage(const StoragePolicy& policy, const Parameter& parameter, const ParameterSource& source);

/// What the parameters of `source` will take in memory and what transformers would report. Reads no weights.
MemoryLedger predict_weights(const ParameterSource& source, const StoragePolicy& policy);

}  // namespace nibble
