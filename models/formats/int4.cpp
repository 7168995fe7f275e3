// Checkpoints of 4-bit integers in groups, one linear layer X of [n, k] weights in G groups a row. All have
//   X.scales  F16 [G, n]
//   X.g_idx   I32 [k]       GPTQ only: the group of each column, here always in order (desc_act false)
// and eight 4-bit numbers in each I32, the first in the lowest bits. AutoGPTQ's first format counts zero points from 1
// and packs along the columns of a row:
//   X.qweight I32 [k/8, n]   X.qzeros I32 [G, n/8], zero points less one; 0 wraps round to 15
// AutoAWQ's (version "gemm") packs along the rows, in each eight in the order 0, 2, 4, 6, 1, 3, 5, 7:
//   X.qweight I32 [k, n/8]   X.qzeros I32 [G, n/8]
#include <algorithm>
#include <array>
#include <cstring>
#include <limits>

#include "models/checkpoint/byte_size.h"
#include "models/formats/format.h"
#include "nibble/error.h"

namespace nibble {
namespace {

constexpr int kPack = 8;  ///< numbers in a word

/// GPTQ's zero points of symmetric groups: eight times 8 - 1.
constexpr std::uint32_t kSymmetricZeros = 0x77777777U;

/// Which row of eight AWQ's nibbles belong to, from the lowest.
constexpr std::array<int, kPack> kAwqOrder = {0, 2, 4, 6, 1, 3, 5, 7};
constexpr std::array<int, kPack> kGptqOrder = {0, 1, 2, 3, 4, 5, 6, 7};

const TensorInfo& require_words(const Checkpoint& checkpoint, const std::string& name) {
  return require_tensor(checkpoint, name, DType::kI32);
}

/// Zero points of one format: how nibbles are ordered in a word, and what is added to them.
struct ZeroFormat {
  std::array<int, kPack> order;
  unsigned offset;
};
constexpr ZeroFormat kGptqZeros{kGptqOrder, 1};
constexpr ZeroFormat kAwqZeros{kAwqOrder, 0};

struct Shape {
  std::int64_t n, k, groups;

  /// A whole row, or else the only power of two that gives so many groups.
  int group_size(const TensorInfo& scales) const {
    if (groups == 1) return static_cast<int>(k);
    for (int size = 32; size <= 4096; size *= 2) {
      if (groups_in_row(static_cast<int>(k), size) == groups) return size;
    }
    fail_tensor(scales, "groups of a power of two from 32 to 4096 of " + std::to_string(k) + " columns",
                std::to_string(groups) + " of them");
  }
};

const TensorInfo& require_scales(const Checkpoint& checkpoint, const std::string& name) {
  return require_tensor(checkpoint, name + ".scales", DType::kF16);
}

/// Checks that all tensors are of one shape and that a word holds eight numbers. `k` is what the format makes of it.
Shape shape_of(const Checkpoint& checkpoint, const std::string& name, std::int64_t k) {
  const auto [groups, n] = require_matrix(require_scales(checkpoint, name));
  if (k > std::numeric_limits<int>::max()) {
    fail_tensor(require_words(checkpoint, name + ".qweight"), "a matrix", std::to_string(k) + " columns");
  }
  const TensorInfo& zeros = require_words(checkpoint, name + ".qzeros");
  if (require_matrix(zeros) != std::pair{groups, n / kPack} || n % kPack != 0) {
    fail_tensor(zeros, shape_text(std::array<std::int64_t, 2>{groups, n / kPack}) + ", eight 4-bit zero points a word",
                shape_text(zeros.shape));
  }
  return {n, k, groups};
}

Shape gptq_shape(const Checkpoint& checkpoint, const std::string& name) {
  const auto [words, n] = require_matrix(require_words(checkpoint, name + ".qweight"));
  return shape_of(checkpoint, name, words * kPack);
}
Shape awq_shape(const Checkpoint& checkpoint, const std::string& name) {
  const auto [k, words] = require_matrix(require_words(checkpoint, name + ".qweight"));
  return shape_of(checkpoint, name, k);
}

/// Groups out of order (act-order) would need a layout of their own.
void require_order(const Checkpoint& checkpoint, const std::string& name, const Shape& shape, int group_size) {
  if (checkpoint.find(name + ".g_idx") == nullptr) return;
  const TensorInfo& info = require_tensor(checkpoint, name + ".g_idx", DType::kI32, shape.k);
  const Buffer data = read_buffer(checkpoint, info);
  const auto* groups = data.as<std::int32_t>();
  for (int col = 0; col < shape.k; ++col) {
    if (groups[col] == col / group_size) continue;
    throw Error(ErrorKind::kUnsupported, info.file.string() + ": tensor '" + info.name + "': expected columns in the " +
                                             "order of their groups, found column " + std::to_string(col) +
                                             " in group " + std::to_string(groups[col]) + " (desc_act)");
  }
}

/// The format's [G, n] as [n, G].
Buffer read_group_scales(const Checkpoint& checkpoint, const std::string& name, const Shape& shape) {
  const TensorInfo& info = require_scales(checkpoint, name);
  const Buffer data = read_buffer(checkpoint, info);
  const auto* from = data.as<Half>();
  Buffer scales = Buffer::allocate(data.size());
  auto* to = scales.mutable_as<Half>();
  for (std::int64_t row = 0; row < shape.n; ++row) {
    for (std::int64_t group = 0; group < shape.groups; ++group) {
      const Half scale = from[group * shape.n + row];
      if ((scale.bits & 0x7c00U) == 0x7c00U) fail_tensor(info, "finite scales", "a NaN or an infinity among them");
      *to++ = scale;
    }
  }
  return scales;
}

Buffer read_zeros(const Checkpoint& checkpoint, const std::string& name, const Shape& shape, const ZeroFormat& format) {
  const Buffer data = read_buffer(checkpoint, require_words(checkpoint, name + ".qzeros"));
  const auto* words = data.as<std::uint32_t>();
  Buffer zeros = Buffer::allocate(static_cast<std::size_t>(shape.n * shape.groups));
  auto* to = zeros.mutable_as<std::uint8_t>();
  for (std::int64_t group = 0; group < shape.groups; ++group) {
    for (std::int64_t row = 0; row < shape.n; row += kPack) {
      const std::uint32_t word = words[(group * shape.n + row) / kPack];
      for (int i = 0; i < kPack; ++i) {
        const std::int64_t place = (row + format.order[static_cast<std::size_t>(i)]) * shape.groups + group;
        to[place] = static_cast<std::uint8_t>(((word >> (4 * i)) + format.offset) & 15U);
      }
    }
  }
  return zeros;
}

/// Eight codes along a row are four bytes, whose nibbles change places.
Buffer read_gptq_codes(const Checkpoint& checkpoint, const std::string& name, const Shape& shape) {
  constexpr std::int64_t kRows = 16;  // a line of words at a time
  const Buffer data = read_buffer(checkpoint, require_words(checkpoint, name + ".qweight"));
  const auto* words = data.as<std::uint32_t>();
  Buffer codes = Buffer::allocate(data.size());
  auto* to = codes.mutable_as<std::uint8_t>();
  for (std::int64_t first = 0; first < shape.n; first += kRows) {
    for (std::int64_t col = 0; col < shape.k; col += kPack) {
      for (std::int64_t row = first; row < std::min(first + kRows, shape.n); ++row) {
        const std::uint32_t word = words[col / kPack * shape.n + row];
        const std::uint32_t swapped = (word & 0x0f0f0f0fU) << 4 | (word >> 4 & 0x0f0f0f0fU);
        std::memcpy(to + (row * shape.k + col) / 2, &swapped, sizeof swapped);
      }
    }
  }
  return codes;
}

/// Pairs of words of neighbouring columns are a byte each of eight rows.
Buffer read_awq_codes(const Checkpoint& checkpoint, const std::string& name, const Shape& shape) {
  const TensorInfo& info = require_words(checkpoint, name + ".qweight");
  if (shape.k % 2 != 0) fail_tensor(info, "an even number of rows", shape_text(info.shape));
  const Buffer data = read_buffer(checkpoint, info);
  const auto* words = data.as<std::uint32_t>();
  const std::int64_t words_a_col = shape.n / kPack;
  Buffer codes = Buffer::allocate(data.size());
  auto* to = codes.mutable_as<std::uint8_t>();
  for (std::int64_t eight = 0; eight < words_a_col; ++eight) {
    for (std::int64_t col = 0; col < shape.k; col += 2) {
      const std::uint32_t first = words[col * words_a_col + eight], second = words[(col + 1) * words_a_col + eight];
      for (int i = 0; i < kPack; ++i) {
        const std::int64_t row = eight * kPack + kAwqOrder[static_cast<std::size_t>(i)];
        to[(row * shape.k + col) / 2] =
            static_cast<std::uint8_t>((first >> (4 * i) & 15U) << 4 | (second >> (4 * i) & 15U));
      }
    }
  }
  return codes;
}

MatrixInfo info_of(const Checkpoint& checkpoint, const std::string& name, const Shape& shape, Scheme scheme) {
  const TensorInfo& weight = require_words(checkpoint, name + ".qweight");
  const int group_size = shape.group_size(require_scales(checkpoint, name));
  return {{scheme, DType::kF16, group_size}, shape.n, shape.k, weight.shape, std::string(to_string(weight.dtype))};
}

bool is_symmetric(const Checkpoint& checkpoint, const std::string& name) {
  const Buffer data = read_buffer(checkpoint, require_words(checkpoint, name + ".qzeros"));
  const auto* words = data.as<std::uint32_t>();
  return std::all_of(words, words + data.size() / sizeof *words,
                     [](std::uint32_t word) { return word == kSymmetricZeros; });
}

/// Scales stand for the rows as they are; words of `qweight` for as many, or for eight at a time.
bool claims_gptq(const Checkpoint& checkpoint, const std::string& name) {
  const TensorInfo* weight = checkpoint.find(name + ".qweight");
  const TensorInfo* scales = checkpoint.find(name + ".scales");
  return weight != nullptr && scales != nullptr && weight->shape.size() == 2 && scales->shape.size() == 2 &&
         weight->shape[1] == scales->shape[1];
}
bool claims_awq(const Checkpoint& checkpoint, const std::string& name) {
  const TensorInfo* weight = checkpoint.find(name + ".qweight");
  const TensorInfo* scales = checkpoint.find(name + ".scales");
  return weight != nullptr && scales != nullptr && weight->shape.size() == 2 && scales->shape.size() == 2 &&
         weight->shape[1] * kPack == scales->shape[1];
}

MatrixInfo describe_gptq(const Checkpoint& checkpoint, const std::string& name) {
  const Scheme scheme = is_symmetric(checkpoint, name) ? Scheme::kInt4 : Scheme::kInt4Asym;
  return info_of(checkpoint, name, gptq_shape(checkpoint, name), scheme);
}
MatrixInfo describe_awq(const Checkpoint& checkpoint, const std::string& name) {
  return info_of(checkpoint, name, awq_shape(checkpoint, name), Scheme::kInt4Asym);
}

Weight read_gptq(const Checkpoint& checkpoint, const std::string& name) {
  const Shape shape = gptq_shape(checkpoint, name);
  const int group_size = shape.group_size(require_scales(checkpoint, name));
  require_order(checkpoint, name, shape, group_size);
  const Buffer codes = read_gptq_codes(checkpoint, name, shape);
  const Buffer scales = read_group_scales(checkpoint, name, shape);
  const auto n = static_cast<int>(shape.n), k = static_cast<int>(shape.k);
  if (is_symmetric(checkpoint, name)) return Int4Group<SymmetricZero>{codes, scales, {}, group_size, n, k};
  return Int4Group<ZeroPoints>{codes, scales, {read_zeros(checkpoint, name, shape, kGptqZeros)}, group_size, n, k};
}
Weight read_awq(const Checkpoint& checkpoint, const std::string& name) {
  const Shape shape = awq_shape(checkpoint, name);
  return Int4Group<ZeroPoints>{read_awq_codes(checkpoint, name, shape),
                               read_group_scales(checkpoint, name, shape),
                               {read_zeros(checkpoint, name, shape, kAwqZeros)},
                               shape.group_size(require_scales(checkpoint, name)),
                               static_cast<int>(shape.n),
                               static_cast<int>(shape.k)};
}

// Writing, as AutoGPTQ does. Readers differ in what they make of a zero point of 0, which wraps round, so a group that
// has it is written with 1 and its codes are one more. The largest, 15, stays: weights that have it lose one step.

unsigned zero_point(const SymmetricZero&, std::int64_t) { return 8; }
unsigned zero_point(const ZeroPoints& zero, std::int64_t group) { return zero.zeros.as<std::uint8_t>()[group]; }

/// One more in each of eight codes that is not 15.
std::uint32_t one_more(std::uint32_t codes) {
  const std::uint32_t largest = codes & codes >> 1 & codes >> 2 & codes >> 3;
  return codes + (~largest & 0x11111111U);
}

template <class Zero>
std::vector<OutputTensor> output(const Int4Group<Zero>& w, const std::string& name) {
  constexpr int kWhole = 32;  // AutoGPTQ's layers have no others
  if (w.n % kWhole != 0 || w.k % kWhole != 0) {
    throw Error(ErrorKind::kUnsupported, name +
                                             ".weight: expected rows and columns in whole 32s, which GPTQ's format " +
                                             "is for, found " + shape_text(std::array<std::int64_t, 2>{w.n, w.k}));
  }
  const int groups = w.groups();
  const auto values = [](int a, int b) { return static_cast<std::size_t>(a) * static_cast<std::size_t>(b); };
  Buffer qweight = Buffer::allocate(w.codes.size());
  Buffer qzeros = Buffer::allocate(values(groups, w.n) / 2);
  std::memset(qzeros.mutable_as<std::byte>(), 0, qzeros.size());
  Buffer scales = Buffer::allocate(w.scales.size());
  Buffer g_idx = Buffer::allocate(values(w.k, sizeof(std::int32_t)));
  const auto* codes = w.codes.template as<std::uint8_t>();
  for (std::int64_t row = 0; row < w.n; ++row) {
    for (std::int64_t col = 0; col < w.k; col += kPack) {
      std::uint32_t bytes = 0;
      std::memcpy(&bytes, codes + (row * w.k + col) / 2, sizeof bytes);
      if (zero_point(w.zero, row * groups + col / w.group_size) == 0) bytes = one_more(bytes);
      qweight.mutable_as<std::uint32_t>()[col / kPack * w.n + row] =
          (bytes & 0x0f0f0f0fU) << 4 | (bytes >> 4 & 0x0f0f0f0fU);
    }
    for (std::int64_t group = 0; group < groups; ++group) {
      const std::uint32_t zero = std::max(zero_point(w.zero, row * groups + group), 1U) - kGptqZeros.offset;
      qzeros.mutable_as<std::uint32_t>()[(group * w.n + row) / kPack] |= zero << (4 * (row % kPack));
      scales.mutable_as<Half>()[group * w.n + row] = w.scales.template as<Half>()[row * groups + group];
    }
  }
  for (int col = 0; col < w.k; ++col) g_idx.mutable_as<std::int32_t>()[col] = col / w.group_size;
  return {{{name + ".qweight", DType::kI32, {w.k / kPack, w.n}, {}}, qweight},
          {{name + ".qzeros", DType::kI32, {groups, w.n / kPack}, {}}, qzeros},
          {{name + ".scales", DType::kF16, {groups, w.n}, {}}, scales},
          {{name + ".g_idx", DType::kI32, {w.k}, {}}, g_idx}};
}

}  // namespace

const Format kGptqFormat{"GPTQ", claims_gptq, describe_gptq, read_gptq};
const Format kAwqFormat{"AWQ", claims_awq, describe_awq, read_awq};

std::vector<OutputTensor> write_tensors(const Int4Group<SymmetricZero>& weight, const std::string& name, DType) {
  return output(weight, name);
}
std::vector<OutputTensor> write_tensors(const Int4Group<ZeroPoints>& weight, const std::string& name, DType) {
  return output(weight, name);
}

}  // namespace nibble
