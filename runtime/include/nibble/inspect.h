// What quantization does to a checkpoint, without running it: sizes, shapes, first values, errors, histograms.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "nibble/engine.h"

namespace nibble {

/// One parameter of the model under a scheme, as it is in memory. A 4-bit weight of n values is [n/2, 1], two codes in
/// each byte, which Hugging Face shows of bitsandbytes' schemes; GPTQ's and AWQ's files have int32 words instead.
struct ParameterReport {
  std::string name;
  MemoryClass memory_class;
  Scheme scheme;                    ///< kNone where it is not quantized
  std::string dtype;                ///< of the stored values: "uint8" for 4-bit codes
  std::vector<std::int64_t> shape;  ///< in the model
  std::vector<std::int64_t> stored_shape;
  std::uint64_t bytes, quant_state_bytes;
};

/// Every parameter, as predict_memory finds it. Throws Error naming one that is missing or of another shape.
std::vector<ParameterReport> inspect_model(const std::string& model, const LoadOptions& options = {});

/// One weight before and after quantization.
struct TensorReport {
  std::string name;
  Scheme scheme;
  int blocksize;  ///< 0 for schemes without blocks
  std::vector<std::int64_t> shape, stored_shape;
  std::vector<float> first_values, first_decoded;  ///< up to 8, as the checkpoint holds them and as they are decoded
  std::vector<int> first_codes;                    ///< their codes: -127..127, or 0..15
  std::vector<std::uint8_t> first_bytes;           ///< as stored
  double max_error, rms_error, snr_db;             ///< decoded minus original; SNR = 10 log10(sum w^2 / sum e^2)
  std::vector<float> levels;  ///< what a code stands for before its absmax; int8: code / 127, int4: (code - 8) / 7.5
  std::vector<std::uint64_t> histogram;  ///< weights at each level; parallel to levels
};

/// Reads and quantizes the weight `name` of `model` under `options.scheme` (absent: the checkpoint's; a checkpoint that
/// is already quantized is compared with nothing and its errors are 0). Throws Error naming a missing tensor.
TensorReport inspect_tensor(const std::string& model, const std::string& name, const LoadOptions& options = {});

struct QuantizeOptions {
  Scheme scheme = Scheme::kNf4;                             ///< kNone turns a quantized checkpoint into a plain one
  std::optional<int> blocksize = {};                        ///< as in LoadOptions
  std::optional<DType> dtype = {};                          ///< of what is not quantized; absent: the checkpoint's own
  EmbeddingStorage embedding = EmbeddingStorage::kCompute;  ///< kInt8: smaller, and transformers cannot load it
  std::uint64_t shard_bytes = 5'000'000'000;                ///< largest file
  int threads = 0;
};

/// Writes checkpoint `source`, quantized, as directory `destination`, in the form transformers + bitsandbytes save, or
/// for int4 AutoGPTQ. It appears only when it is complete and on disk and must not exist before. Throws Error.
void quantize(const std::string& source, const std::string& destination, const QuantizeOptions& options = {},
              const Progress& progress = {});

/// Write a file that takes its name, replacing what had it, only when all of it is on disk: of any contents, or a
/// safetensors file of one fp32 tensor [rows, columns]. Throw Error.
void save_file(const std::string& file, std::string_view contents);
void save_tensor(const std::string& file, const std::string& name, std::span<const float> values, std::int64_t rows,
                 std::int64_t columns);

}  // namespace nibble
