#include "nibble/types.h"

#include <gtest/gtest.h>

namespace nibble {
namespace {

TEST(Types, GiveEachElementTypeItsNameAndSize) {
  struct Row {
    DType dtype;
    std::string_view name;
    std::size_t size;
  };
  for (const Row& row : {Row{DType::kF32, "fp32", 4}, Row{DType::kF16, "fp16", 2}, Row{DType::kBF16, "bf16", 2},
                         Row{DType::kF64, "fp64", 8}, Row{DType::kI64, "int64", 8}, Row{DType::kI32, "int32", 4},
                         Row{DType::kI16, "int16", 2}, Row{DType::kI8, "int8", 1}, Row{DType::kU64, "uint64", 8},
                         Row{DType::kU32, "uint32", 4}, Row{DType::kU16, "uint16", 2}, Row{DType::kU8, "uint8", 1},
                         Row{DType::kBool, "bool", 1}}) {
    EXPECT_EQ(to_string(row.dtype), row.name);
    EXPECT_EQ(size_of(row.dtype), row.size);
  }
}

TEST(Types, ParseComputeDtypesInEverySpelling) {
  for (const char* name : {"fp32", "float32", "float"}) EXPECT_EQ(parse_compute_dtype(name), DType::kF32);
  for (const char* name : {"fp16", "float16", "half"}) EXPECT_EQ(parse_compute_dtype(name), DType::kF16);
  for (const char* name : {"bf16", "bfloat16"}) EXPECT_EQ(parse_compute_dtype(name), DType::kBF16);
  for (const char* name : {"", "FP32", "int8", "fp64", "auto"}) EXPECT_EQ(parse_compute_dtype(name), std::nullopt);
}

TEST(Types, ParseSchemesAndDevicesAsTheyArePrinted) {
  for (const Scheme scheme : kSchemes) {
    EXPECT_EQ(parse_scheme(to_string(scheme)), scheme);
  }
  EXPECT_EQ(to_string(Scheme::kNf4Dq), "nf4-dq");
  EXPECT_EQ(to_string(Scheme::kInt8Decomp), "int8-decomp");
  EXPECT_EQ(parse_scheme("nf5"), std::nullopt);
  for (const Device device : {Device::kCpu, Device::kCuda}) EXPECT_EQ(parse_device(to_string(device)), device);
  EXPECT_EQ(parse_device("tpu"), std::nullopt);
}

}  // namespace
}  // namespace nibble
