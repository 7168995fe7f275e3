// nibble bench: what it measures of a small model, and how it prints it.
#include <gtest/gtest.h>

#include <algorithm>
#include <sstream>

#include "program.h"

namespace nibble::testing {
namespace {

const std::string kTiny = golden_model("pre_norm");

Json bench(Arguments arguments) {
  arguments.insert(arguments.begin(), {"bench", "-m", kTiny, "-r", "2", "-o", "json"});
  return Json::parse(output(arguments));
}

TEST(Bench, MeasuresEveryCombination) {
  const Json rows = bench({"--scheme", "none,nf4", "--dtype", "fp32,bf16", "-p", "4-8*2", "-n", "3", "-d", "0,5", "-b",
                           "1-3+2", "-t", "1,2"});
  ASSERT_EQ(rows.size(), 2U * 2 * 2 * 3 * 2 * 2);
  const auto has = [&](const Json& expected) {
    return std::ranges::count_if(rows, [&](const Json& row) {
      return std::ranges::all_of(expected.items(),
                                 [&](const auto& item) { return row.at(item.key()) == item.value(); });
    });
  };
  for (const char* scheme : {"none", "nf4"}) {
    for (const char* dtype : {"fp32", "bf16"}) {
      for (const auto& [prompt, generated] : std::vector<std::pair<int, int>>{{4, 0}, {8, 0}, {0, 3}}) {
        EXPECT_EQ(has({{"scheme", scheme},
                       {"dtype", dtype},
                       {"n_prompt", prompt},
                       {"n_gen", generated},
                       {"n_depth", 5},
                       {"n_sequences", 3},
                       {"n_threads", 2}}),
                  1);
      }
    }
  }
}

TEST(Bench, ExplainsKernels) {
  const Json rows = bench({"--explain-kernels", "--scheme", "nf4", "--dtype", "fp16", "--cpu-target", "portable"});
  ASSERT_EQ(rows.size(), 5U);  // it has one way
  const auto expect = [&](std::size_t row, const char* kernel, const char* layout, int n, int k) {
    const Json& found = rows.at(row);
    EXPECT_EQ(found.at("kernel"), kernel);
    EXPECT_EQ(found.at("layout"), layout);
    EXPECT_EQ(found.at("n"), n);
    EXPECT_EQ(found.at("k"), k);
    EXPECT_EQ(found.at("from_tokens"), 1);
    EXPECT_NE(found.at("way"), "");
  };
  expect(0, "q, k, v", "nf4", 64, 64);
  expect(1, "out", "nf4", 64, 64);
  expect(2, "fc1", "nf4", 48, 64);
  expect(3, "fc2", "nf4", 64, 48);
  expect(4, "head", "fp16", 96, 64);
}

TEST(Bench, MeasuresKernels) {
  const Json rows =
      bench({"--kernels", "--scheme", "nf4", "--dtype", "fp16", "-p", "4", "-n", "1", "-d", "5", "-b", "2"});
  // Hidden size 64, 2 heads, feed-forward 48, 96 tokens; a linear of 64 x 64 has 2048 bytes of codes and 64 absmax
  // values. Two sequences of 4 tokens behind 5, then of one.
  const auto bytes = [](int n, int k) { return n * k / 2 + n * k / 64 * 4; };
  ASSERT_EQ(rows.size(), 2U * 6);
  const auto expect = [&](std::size_t row, const char* kernel, int m, int n, int k, int read_bytes, int flops) {
    const Json& found = rows.at(row);
    EXPECT_EQ(found.at("kernel"), kernel);
    EXPECT_EQ(found.at("m"), m);
    EXPECT_EQ(found.at("n"), n);
    EXPECT_EQ(found.at("k"), k);
    EXPECT_EQ(found.at("read_bytes"), read_bytes) << kernel;
    EXPECT_EQ(found.at("flops"), flops) << kernel;
    EXPECT_GT(found.at("median_ns"), 0);
    EXPECT_EQ(found.at("samples_ns").size(), 2U);
    EXPECT_EQ(found.at("n_depth"), 5);
  };
  expect(0, "qkv", 8, 192, 64, 3 * bytes(64, 64), 2 * 8 * 192 * 64);
  expect(1, "attention", 8, 2, 32, 2 * 9 * 2 * 64 * 2, 4 * 2 * (6 + 7 + 8 + 9) * 64);
  expect(2, "out", 8, 64, 64, bytes(64, 64), 2 * 8 * 64 * 64);
  expect(3, "fc1", 8, 48, 64, bytes(48, 64), 2 * 8 * 48 * 64);
  expect(4, "fc2", 8, 64, 48, bytes(64, 48), 2 * 8 * 64 * 48);
  expect(5, "head", 2, 96, 64, 96 * 64 * 2, 2 * 2 * 96 * 64);
  expect(6, "qkv", 2, 192, 64, 3 * bytes(64, 64), 2 * 2 * 192 * 64);
  expect(7, "attention", 2, 2, 32, 2 * 6 * 2 * 64 * 2, 4 * 2 * 6 * 64);
}

TEST(Bench, CountsTheBytesThatAreRead) {
  const Json row = bench({"--scheme", "nf4", "--dtype", "fp16", "-p", "0", "-n", "3", "-d", "5", "-b", "2"}).at(0);
  // Hidden size 64, feed-forward 48, 2 layers, 96 tokens, 2 bytes a value, blocks of 64 weights.
  const int codes = 2 * (4 * 64 * 64 + 2 * 48 * 64) / 2;
  const int state = 2 * (4 * 64 + 2 * 48) * 4;
  const int biases_and_norms = 2 * (2 * (2 * 2 * 64 + 4 * 64 + 48 + 64) + 2 * 64);
  const int table = 2 * 96 * 64;
  const int rows_of_tables = 2 * 2 * 64;
  const int keys_and_values = 2 * 2 * 2 * 64;
  EXPECT_EQ(row.at("read_bytes"),
            3 * (codes + state + biases_and_norms + table) + 2 * (3 * rows_of_tables + (6 + 7 + 8) * keys_and_values));
  EXPECT_EQ(row.at("model_size"), codes + state + biases_and_norms + table + 2 * 82 * 64);
  EXPECT_EQ(row.at("huggingface_size"), row.at("model_size").get<int>() - state);
  EXPECT_GE(row.at("peak_bytes"), row.at("memory").at("total"));
}

TEST(Bench, DerivesItsRatesFromItsSamples) {
  for (const Json& row : bench({"--dtype", "fp32", "-p", "8", "-n", "3", "-b", "2"})) {
    const double tokens = 2 * (row.at("n_prompt").get<double>() + row.at("n_gen").get<double>());
    ASSERT_EQ(row.at("samples_ns").size(), 2U);
    ASSERT_EQ(row.at("samples_ts").size(), 2U);
    double nanoseconds = 0;
    for (const double sample : row.at("samples_ns")) nanoseconds += sample / 2;
    EXPECT_NEAR(row.at("avg_ns"), nanoseconds, 1);
    for (std::size_t i = 0; i < 2; ++i) {
      const double rate = tokens / row.at("samples_ns")[i].get<double>() * 1e9;
      EXPECT_NEAR(row.at("samples_ts")[i], rate, 1e-3 * rate);
    }
    const bool generates = row.at("n_gen") > 0;
    EXPECT_EQ(row.at("ttft_ns").is_null(), generates);
    EXPECT_EQ(row.at("first_ttft_ns").is_null(), generates);
    EXPECT_GT(row.at("load_ns"), 0);
    EXPECT_EQ(row.at("roofline_share").is_null(), !generates);
    if (!generates) continue;
    const double read = row.at("read_bytes_per_second");
    EXPECT_NEAR(read, row.at("read_bytes").get<double>() / nanoseconds * 1e9, 1e-3 * read);
    EXPECT_NEAR(row.at("roofline_share"), read / row.at("roofline_bytes_per_second").get<double>(), 1e-9);
  }
}

TEST(Bench, PrintsTablesAndLines) {
  const Arguments arguments{"bench", "-m", kTiny, "--dtype", "bf16", "-p", "4", "-n", "2", "-d", "3", "-r", "1"};
  const std::string table = output(arguments);
  EXPECT_EQ(std::ranges::count(table, '\n'), 4);
  for (const char* part : {"| model ", " size, MB |", " HF says |", " params |", "| backend |", "| scheme ",
                           "| dtype |", " t/s |", " load, s |", " TTFT, ms |", " GB/s |", " % roof |", " peak, MB |",
                           " pp4 @ d3 |", " tg2 @ d3 |", " ± 0.00 |", "| CPU "}) {
    EXPECT_TRUE(contains(table, part)) << part << " is not in\n" << table;
  }
  EXPECT_FALSE(contains(table, "perplexity"));

  Arguments lines = arguments;
  lines.insert(lines.end(), {"-o", "jsonl"});
  std::istringstream stream(output(lines));
  std::vector<Json> rows;
  for (std::string line; std::getline(stream, line);) rows.push_back(Json::parse(line));
  ASSERT_EQ(rows.size(), 2U);
  EXPECT_EQ(rows[1].at("n_gen"), 2);

  lines.back() = "csv";
  std::istringstream csv(output(lines));
  std::string header, first;
  std::getline(csv, header);
  std::getline(csv, first);
  EXPECT_TRUE(header.starts_with("version,cpu_info,backends,model_filename,")) << header;
  EXPECT_EQ(std::ranges::count(header, ','), std::ranges::count(first, ',')) << first;
}

TEST(Bench, MeasuresWithAllOfTheContext) {
  const Json rows = bench({"-p", "80", "-n", "78"});
  ASSERT_EQ(rows.size(), 2U);
  EXPECT_EQ(rows[0].at("n_prompt"), 80);
  EXPECT_EQ(rows[1].at("n_gen"), 78);
}

TEST(Bench, EndsItsDocumentWhereALoadFails) {
  const TempDir folder;
  std::filesystem::copy(kTiny, folder / "nan");
  std::string weights = read_file(folder / "nan/model.safetensors");
  std::fill(weights.end() - 4096, weights.end(), '\xff');
  write_file(folder / "nan/model.safetensors", weights);
  const Result result =
      run({"bench", "-m", kTiny, "-m", folder / "nan", "-p", "4", "-n", "0", "-r", "1", "-o", "json"});
  EXPECT_EQ(result.code, 1);
  EXPECT_TRUE(contains(result.err, "found a NaN")) << result.err;
  EXPECT_EQ(Json::parse(result.out).size(), 1U) << result.out;
}

TEST(Bench, PrintsANameThatIsNotUtf8) {
  const TempDir folder;
  const std::string model = folder / "caf\xe9";
  std::filesystem::copy(kTiny, model);
  for (const Arguments& kind : {Arguments{"-p", "4", "-n", "0", "-r", "1"}, {"--explain-kernels"}}) {
    for (const char* format : {"json", "jsonl"}) {
      Arguments arguments{"bench", "-m", model, "-o", format};
      arguments.insert(arguments.end(), kind.begin(), kind.end());
      EXPECT_TRUE(contains(output(arguments), "caf\xef\xbf\xbd"));
    }
  }
}

TEST(Bench, MeasuresPerplexityWhenAsked) {
  const TempDir folder;
  const std::string text =
      write_file(folder / "text", "The old man looked at the sea and said nothing, for there was nothing to say.");
  const Arguments arguments{"bench", "-m", kBundled, "-p",           "0",  "-n",       "1", "-r",
                            "1",     "-o", "json",   "--perplexity", text, "--window", "8"};
  const Json row = Json::parse(output(arguments)).at(0);
  const Json alone = json_output({"perplexity", "-m", kBundled, "-f", text, "--window", "8"});
  EXPECT_EQ(row.at("perplexity"), alone.at("perplexity"));
  EXPECT_EQ(row.at("perplexity_error"), alone.at("perplexity_error"));
}

}  // namespace
}  // namespace nibble::testing
