#include "models/checkpoint/json.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "tests/models/checkpoint_testing.h"

namespace nibble {
namespace {

void expect_refused(std::string_view text, std::string_view sentence) {
  expect_error(ErrorKind::kFormat, {sentence}, [&] { parse_json<nlohmann::json>(text, "f.json"); });
}

TEST(Json, IsReadInTheOrderAskedFor) {
  constexpr std::string_view kText = R"({"b": [1, {"c": null}], "a": 2.5})";
  EXPECT_EQ(parse_json<nlohmann::json>(kText, "f.json").dump(), R"({"a":2.5,"b":[1,{"c":null}]})");
  EXPECT_EQ(parse_json<nlohmann::ordered_json>(kText, "f.json").dump(), R"({"b":[1,{"c":null}],"a":2.5})");
}

TEST(Json, IsRefusedInOneSentence) {
  expect_refused("", "f.json: expected valid JSON, found an error at byte 1");
  expect_refused("{} x", "f.json: expected valid JSON, found an error at byte 4");
  expect_refused("[1]", "f.json: expected a JSON object, found array");
  expect_refused(R"({"a": 1e999})", "f.json: expected valid JSON, found a number beyond the range of double");
  expect_refused(R"({"a": {"b": 1, "b": 2}})", "f.json: expected every key once, found 'b' twice");
  const auto nested = [](std::size_t depth) { return std::string(depth, '[') + std::string(depth, ']'); };
  EXPECT_NO_THROW(parse_json<nlohmann::json>("{\"a\":" + nested(16) + "}", "f.json"));
  expect_refused("{\"a\":" + nested(17) + "}", "f.json: expected JSON nested at most 16 deep, found it deeper");
  expect_refused("{\"a\":" + nested(300'000) + "}", "f.json: expected JSON nested at most 16 deep, found it deeper");
}

TEST(Json, IsShownShortAndInAscii) {
  EXPECT_EQ(show_json({{"a", "\u00e9"}}), R"({"a":"\u00e9"})");
  EXPECT_EQ(show_json(std::string(100, 'x')), "\"" + std::string(76, 'x') + "...");
}

}  // namespace
}  // namespace nibble
