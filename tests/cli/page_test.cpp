// nibble inspect --html: one well-formed page that loads nothing from anywhere.
#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "program.h"

namespace nibble::testing {
namespace {

const std::string kTiny = golden_model("pre_norm");

/// What is wrong with the nesting of a page's elements, "" if nothing. Every element must be closed, as in XML.
std::string nesting_error(std::string_view page) {
  std::vector<std::string> open;
  for (std::size_t at = page.find('<'); at != std::string_view::npos; at = page.find('<', at + 1)) {
    const std::size_t end = page.find('>', at);
    if (end == std::string_view::npos) return "a tag does not end";
    const std::string_view tag = page.substr(at + 1, end - at - 1);
    if (tag.empty() || tag.find('<') != std::string_view::npos) return "a '<' is not escaped";
    if (std::ranges::count(tag, '"') % 2 != 0) return "a quote is not closed: " + std::string(tag);
    const std::string name(tag.substr(0, tag.find_first_of(" /", 1)));
    if (tag.front() == '!' || tag.back() == '/') continue;
    if (tag.front() != '/') {
      open.push_back(name);
      continue;
    }
    if (open.empty() || "/" + open.back() != tag) return "closed but not open: " + std::string(tag);
    open.pop_back();
  }
  return open.empty() ? "" : "not closed: " + open.back();
}

TEST(NestingError, IsFound) {
  EXPECT_EQ(nesting_error("<p a=\"1\">x<br/></p>"), "");
  EXPECT_NE(nesting_error("<p><b></p></b>"), "");
  EXPECT_NE(nesting_error("<p>"), "");
  EXPECT_NE(nesting_error("<p a=\"1></p>"), "");
  EXPECT_NE(nesting_error("1 < 2"), "");
}

class Page : public ::testing::Test {
 protected:
  std::string page(Arguments arguments) {
    arguments.insert(arguments.begin(), {"inspect", "--html", folder_ / "page.html"});
    EXPECT_TRUE(output(arguments).starts_with(folder_ / "page.html: "));
    return read_file(folder_ / "page.html");
  }

  TempDir folder_;
};

TEST_F(Page, IsWellFormedAndStandsAlone) {
  const std::string text = page({"-m", kTiny});
  EXPECT_TRUE(text.starts_with("<!DOCTYPE html>"));
  EXPECT_EQ(nesting_error(text), "");
  for (const char* outside : {"http:", "https:", "src=", "href=", "@import", "url("}) {
    EXPECT_FALSE(contains(text, outside)) << outside;
  }
}

TEST_F(Page, ShowsMemoryErrorsAndWeights) {
  const std::string text = page({"-m", kTiny});
  for (const char* part :
       {"<h2>Memory</h2>", "<h2>Error by layer</h2>", "<h2>Weights over the levels: decoder.layers.0.fc1.weight</h2>",
        "<title>quantization state: ", "<title>q_proj of layer 1: ", ">nf4-dq</figcaption>", "<title>+1.0000: "}) {
    EXPECT_TRUE(contains(text, part)) << part;
  }
  // 8 schemes with 5 classes, and the histograms of int8 (255 levels) and six 4-bit schemes.
  const auto count = [&](std::string_view part) {
    std::size_t found = 0;
    for (std::size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++found;
    return found;
  };
  EXPECT_EQ(count("<rect "), 8U * 5 + 255 + 6 * 16);
  // Seven schemes, two layers of six linears.
  EXPECT_EQ(count("<circle "), 7U * 2 * 6);
}

TEST_F(Page, OfAQuantizedCheckpointHasNothingToCompareWith) {
  const std::string text = page({"-m", golden_model("pre_norm_fp16_nf4")});
  EXPECT_EQ(nesting_error(text), "");
  EXPECT_TRUE(contains(text, "quantized already"));
  EXPECT_TRUE(contains(text, "<figcaption>nf4</figcaption>"));
}

TEST_F(Page, EscapesTheNameOfAModel) {
  const std::string model = folder_ / "a<b>&c";
  std::filesystem::copy(kTiny, model);
  const std::string text = page({"-m", model, "--scheme", "nf4", "--tensor", "decoder.layers.1.fc2"});
  EXPECT_EQ(nesting_error(text), "");
  EXPECT_TRUE(contains(text, "a&lt;b&gt;&amp;c"));
  EXPECT_TRUE(contains(text, "levels: decoder.layers.1.fc2.weight"));
}

TEST_F(Page, LeavesOtherFilesAlone) {
  write_file(folder_ / "page.html.partial", "mine");
  page({"-m", kTiny, "--scheme", "nf4"});
  EXPECT_EQ(read_file(folder_ / "page.html.partial"), "mine");
  const std::filesystem::directory_iterator left(folder_ / ".");
  EXPECT_EQ(std::distance(begin(left), end(left)), 2);
}

TEST_F(Page, IsNotLeftHalfWritten) {
  const Result result = run({"inspect", "-m", kTiny, "--html", folder_ / "absent/page.html"});
  EXPECT_EQ(result.code, 1);
  EXPECT_EQ(result.err,
            "nibble: " + (folder_ / "absent/page.html") + ": cannot create it: No such file or directory\n");
  EXPECT_EQ(run({"inspect", "-m", kTiny, "--html", "x", "--json"}).code, 2);
}

}  // namespace
}  // namespace nibble::testing
