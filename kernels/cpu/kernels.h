// The loops of the CPU backend as a table of functions, one table for each instruction set. The text of the loops is
// compiled once per instruction set (target_*.cpp) and the table is chosen at run time.
#pragma once

#include <algorithm>
#include <cstddef>
#include <string_view>
#include <vector>

#include "kernels/backend.h"

namespace nibble {

enum class CpuTarget : std::uint8_t { kPortable, kAvx2, kAvx512, kAvx512Vnni, kAvx512Bf16, kAmx };

/// Columns are handled in groups of 128: one group is a cache line of 4-bit codes.
inline constexpr int kGroup = 128;
/// Columns of a block: few enough for a panel to fit a first-level cache.
inline constexpr int kBlock = 2 * kGroup;
/// Rows of x that are packed at once; more are done in turns.
inline constexpr int kPackedRows = 128;
/// Up to this many rows of x the weights are decoded in registers; beyond, once into a panel.
inline constexpr int kFusedRows = 4;
/// Rows of w that are decoded at once.
inline constexpr int kPanelRows = 16;
/// Rows of w in one task, at most, when there is a panel.
inline constexpr int kTaskRows = 64;

constexpr int padded_to(int count, int multiple) { return (count + multiple - 1) / multiple * multiple; }

/// The bytes that one packed row of x takes at most: fp32 as three bf16.
constexpr std::size_t packed_row_bytes(int k) { return static_cast<std::size_t>(padded_to(k, kBlock)) * 6; }

/// What `multiply` needs beside its task: a block of rows of w with its scales, and 16 lanes for each result.
inline constexpr std::size_t kMultiplyScratchBytes =
    sizeof(float) * (kPanelRows * (kBlock + 16 * kBlock / kGroup) + 16 * kPackedRows * kTaskRows);

/// y[rows, n] = epilogue(x w^T + bias) for packed rows of x.
template <class Layout, class T>
struct LinearTask {
  typename Layout::View weight;  // [n, k]
  const void* x;                 // packed
  int rows;
  const T* bias;  // [n], or null
  float scale;
  Activation activation;
  const T* residual;  // [rows, n], or null
  T* y;               // [rows, n]
};

/// Rows of x that are multiplied together, and the most rows of w in one task of theirs.
struct Turn {
  int rows, task_rows;
};

/// One way to multiply rows of x by a weight. How they are packed is between its two functions.
template <class Layout, class T>
struct ProductWay {
  int pack_rows;  ///< rows that are packed together
  /// The next turn when so many rows are left.
  Turn (*turn)(int left);
  /// Packs rows [row, row + pack_rows) of a turn's, or those there are; x is the first of them.
  void (*pack)(const T* x, int k, int rows, int row, void* packed);
  /// Fills columns [first, last) of y. `scratch` has kMultiplyScratchBytes.
  void (*multiply)(const LinearTask<Layout, T>& task, int first, int last, void* scratch);
};

/// What a layout can do in compute dtype T.
template <class Layout, class T>
struct LinearKernels {
  ProductWay<Layout, T> few, many;  ///< for rows of segments of up to most_few rows, and of longer ones
  int most_few;
  /// y[k] = a row of the weight
  void (*decode_row)(const typename Layout::View& weight, int row, T* y);
};

/// Queries of one sequence and one head, which see the keys up to themselves.
template <class T>
struct AttendTask {
  const T* q;       // rows `stride` apart
  const T* keys;    // [context, head_dim]
  const T* values;  // [context, head_dim]
  T* y;             // rows `stride` apart
  std::ptrdiff_t stride;
  int head_dim;
  int queries;
  int past;  // keys before the first query's own
};

/// One way to attend.
template <class T>
struct AttendWay {
  int queries;  ///< of one task at most
  /// `scratch` has attend_scratch_bytes.
  void (*attend)(const AttendTask<T>& task, float* scratch);
};

/// Queries of a task in tiles.
inline constexpr int kTileQueries = 64;

/// What any way to attend needs beside its task: scores; for each column of a head queries, 32 keys, 128 values and
/// sums; and the probabilities of 32 queries for 128 keys. Factors are fp32 as three bf16.
constexpr std::size_t attend_scratch_bytes(int context, int head_dim) {
  const auto keys = static_cast<std::size_t>(padded_to(context, 32));
  const auto columns = static_cast<std::size_t>(padded_to(head_dim, 32));
  return sizeof(float) * kTileQueries * (keys + columns) + 6 * ((kTileQueries + 32 + 128) * columns + 32 * 128);
}

/// What `choose` needs beside its task: a key for each logit, and two histograms.
constexpr std::size_t choose_scratch_bytes(int count) {
  return static_cast<std::size_t>(padded_to(count, 16)) * sizeof(std::uint32_t) +
         kHalfKeys * (sizeof(std::uint64_t) + sizeof(std::uint32_t));
}

template <class T>
struct RowKernels {
  /// One row; weight and bias may be null.
  void (*layer_norm)(const T* x, const T* weight, const T* bias, int cols, T* y);
  /// For segments of up to most_few_queries, and for longer ones.
  AttendWay<T> attend_few, attend_many;
  int most_few_queries;
  /// y[i] = round(y[i] + x[i])
  void (*add)(const T* x, int count, T* y);
  void (*widen)(const T* x, std::size_t count, float* y);
  /// A token by its logits, as kernels/sampling.h says; `seen` are the ids to be penalised.
  int (*choose)(const T* logits, int count, const Draw& draw, const int* seen, std::size_t seen_count, void* scratch);
};

/// One LinearKernels for each layout of a variant.
template <class T, class Variant>
struct LayoutTable;
template <class T, class... Layouts>
struct LayoutTable<T, std::variant<Layouts...>> : LinearKernels<Layouts, T>... {};

template <class T>
struct DTypeKernels : RowKernels<T>, LayoutTable<T, Weight> {
  LinearKernels<Int8Row, T> int8_activations;  ///< for rows of x rounded to 8 bits
};

struct CpuKernels : DTypeKernels<float>, DTypeKernels<Half>, DTypeKernels<BFloat16> {};

std::string_view to_string(CpuTarget target);

/// The targets this machine can run, from the plainest to the best.
std::vector<CpuTarget> available_targets();

/// The one to choose. AMX where there is; AVX512-BF16 where its dot product of pairs is one operation: on AMD's cores;
/// Intel's take four for it, where words (VNNI) and two multiply-adds of fp32 take two.
CpuTarget fastest_target();

/// An available target by its name. Throws Error{kInvalidArgument} with the names there are.
CpuTarget parse_cpu_target(std::string_view name);

/// Throws Error{kUnsupported} for a target that is not available.
const CpuKernels& cpu_kernels(CpuTarget target);

}  // namespace nibble
