#include <gtest/gtest.h>

#include <algorithm>

#include "program.h"

namespace nibble::testing {
namespace {

const std::string kTiny = golden_model("pre_norm");

/// Runs what must fail: nothing on standard output, one sentence on standard error that has every one of `parts`.
void expect_failure(int code, const Arguments& arguments, const std::vector<std::string>& parts,
                    std::string_view input = "") {
  std::string line;
  for (const std::string& argument : arguments) line += argument + " ";
  SCOPED_TRACE(line);
  const Result result = run(arguments, input);
  EXPECT_EQ(result.code, code);
  EXPECT_EQ(result.out, "");
  EXPECT_TRUE(result.err.starts_with("nibble: ")) << result.err;
  EXPECT_EQ(std::ranges::count(result.err, '\n'), 1) << result.err;
  for (const std::string& part : parts) EXPECT_TRUE(contains(result.err, part)) << part << " is not in " << result.err;
}

void expect_usage(const Arguments& arguments, const std::vector<std::string>& parts) {
  expect_failure(2, arguments, parts);
}

TEST(Usage, NamesTheCommandsThereAre) {
  expect_usage({}, {"expected a command", "generate", "logits", "quantize", "inspect", "found none"});
  expect_usage({"frob"}, {"expected a command", "found 'frob'"});
  expect_usage({"generate", "-m", kTiny, "--frob"}, {"generate", "'--frob'", "nibble generate --help"});
  expect_usage({"quantize", kTiny, "out", "extra", "--scheme", "nf4"}, {"quantize", "'extra'"});
}

TEST(Usage, NamesAMissingFlagOrValue) {
  expect_usage({"generate", "-p", "x"}, {"--model is required"});
  expect_usage({"generate", "-p", "x", "-m"}, {"--model: expected a value, found none"});
  expect_usage({"logits", "-m", kTiny, "--tokens", "2"}, {"--output is required"});
  expect_usage({"quantize", kTiny, "out"}, {"--scheme is required"});
  expect_usage({"generate", "-m", kTiny, "--tokens", "2", "--logprobs", "1"}, {"--logprobs requires --json"});
  expect_usage({"generate", "-m", kTiny, "--tokens", "2", "-np", "2"}, {"--parallel requires --dry-run"});
}

TEST(Usage, ReadsValuesStrictly) {
  const std::vector<std::vector<std::string>> cases{
      // flag, value, expected
      {"-n", "abc", "-n/--n-predict: expected a whole number of at least 1, or -1 for no limit, found 'abc'"},
      {"-n", "12x", "found '12x'"},
      {"-n", "0", "-n/--n-predict: expected"},
      {"-n", "99999999999", "-n/--n-predict: expected"},
      {"-c", "-5", "-c/--ctx-size: expected a whole number of at least 0, found '-5'"},
      {"-t", "1.5", "-t/--threads: expected a whole number from 0 to 1024, found '1.5'"},
      {"-s", "-2", "-s/--seed: expected"},
      {"--temp", "nan", "--temp: expected 0 or a number from 1e-06 to 1e+06, found 'nan'"},
      {"--temp", "-0.5", "--temp: expected 0 or a number from 1e-06 to 1e+06, found '-0.5'"},
      {"--temp", "1e-38", "--temp: expected 0 or a number from 1e-06 to 1e+06, found '1e-38'"},
      {"--temp", "1e7", "--temp: expected 0 or a number from 1e-06 to 1e+06, found '1e7'"},
      {"--top-k", "", "--top-k: expected a whole number of at least 0, found ''"},
      {"--top-p", "1.5", "--top-p: expected a number from 0 to 1, found '1.5'"},
      {"--min-p", "inf", "--min-p: expected a number from 0 to 1, found 'inf'"},
      {"--repeat-penalty", "0", "--repeat-penalty: expected a number from 1e-06 to 1e+06, found '0'"},
      {"--repeat-penalty", "1e-40", "--repeat-penalty: expected a number from 1e-06 to 1e+06, found '1e-40'"},
      {"--repeat-penalty", "1e7", "--repeat-penalty: expected a number from 1e-06 to 1e+06, found '1e7'"},
      {"--scheme", "foo",
       "--scheme: expected none, int8, int8-decomp, fp4, nf4, fp4-dq, nf4-dq, int4 or int4-asym, found 'foo'"},
      {"--dtype", "fp8", "--dtype: expected auto, fp32, bf16 or fp16, found 'fp8'"},
      {"--embedding", "nf4", "--embedding: expected compute or int8, found 'nf4'"},
      {"--blocksize", "65", "--blocksize: expected 32, 64, 128, 256, 512, 1024, 2048 or 4096, found '65'"},
      {"--device", "tpu", "--device: expected cpu or cuda, found 'tpu'"},
      {"--tokens", "2,,9", "--tokens: expected token ids such as 2,17,9, found '2,,9'"},
      {"--tokens", "2,-1", "--tokens: expected token ids"},
  };
  for (const auto& wrong : cases) expect_usage({"generate", "-m", kTiny, wrong[0], wrong[1]}, {wrong[2]});
  expect_usage({"logits", "-m", kTiny, "--tokens", "2", "-o", "x", "--attention-mask", "0,2"},
               {"--attention-mask: expected 0 or 1 for each token"});
  expect_usage({"quantize", kTiny, "out", "--scheme", "nf4", "--max-shard-size", "5 GB"},
               {"--max-shard-size: expected a size above 0 such as 500MB, 5GB or 4GiB, found '5 GB'"});
  const std::vector<std::vector<std::string>> bench_cases{
      {"-p", "4-2", "-p/--n-prompt: expected whole numbers from 0 to 1048576 such as", "found '4-2'"},
      {"-n", "1-9+0", "-n/--n-gen: expected", "found '1-9+0'"},
      {"-n", "0-9*2", "-n/--n-gen: expected", "found '0-9*2'"},
      {"-n", "1,", "-n/--n-gen: expected", "found '1,'"},
      {"-d", "0-5000", "-d/--n-depth: expected", "found '0-5000'"},
      {"-b", "0", "-b/--batch: expected whole numbers from 1 to 16384", "found '0'"},
      {"-t", "2000", "-t/--threads: expected whole numbers from 0 to 1024", "found '2000'"},
      {"-r", "0", "-r/--repetitions: expected a whole number from 1 to 10000", "found '0'"},
      {"-o", "sql", "-o/--output: expected md, json, jsonl or csv", "found 'sql'"},
      {"--scheme", "nf4,foo",
       "--scheme: expected schemes among none, int8, int8-decomp, fp4, nf4, fp4-dq, nf4-dq, int4 and int4-asym",
       "'nf4,foo'"},
      {"--dtype", "bf16,", "--dtype: expected types among fp32, bf16 and fp16", "found 'bf16,'"},
      {"--device", "cpu,tpu", "--device: expected cpu or cuda", "found 'cpu,tpu'"},
  };
  for (const auto& wrong : bench_cases) expect_usage({"bench", "-m", kTiny, wrong[0], wrong[1]}, {wrong[2], wrong[3]});
  expect_usage({"bench"}, {"--model is required"});
  expect_usage({"perplexity", "-m", kTiny, "-f", "x", "--window", "1"},
               {"--window: expected a whole number of at least 2, found '1'"});
  expect_usage({"perplexity", "-m", kTiny, "-f", "x", "--base-dtype", "auto"},
               {"--base-dtype: expected fp32, bf16 or fp16, found 'auto'"});
  expect_usage({"generate", "-m", kTiny, "-n", "a\nb"}, {"found 'a\\x0ab'"});
}

TEST(Usage, TakesOnePrompt) {
  expect_usage({"generate", "-m", kTiny, "-p", "a", "-f", "b"}, {"expected one of -p, -f and --tokens, found more"});
  expect_usage({"generate", "-m", kTiny, "-p", "a", "--tokens", "2"}, {"expected one of -p, -f and --tokens"});
  expect_usage({"generate", "-m", kTiny, "--lines", "--tokens", "2"}, {"--lines: expected text"});
}

TEST(Usage, ExplainsEveryCommand) {
  for (const char* command : {"generate", "logits", "quantize", "inspect", "perplexity", "bench"}) {
    EXPECT_TRUE(contains(output({"--help"}), command));
    EXPECT_TRUE(contains(output({command, "--help"}), "--scheme NAME")) << command;
  }
  EXPECT_TRUE(contains(output({"generate", "-h"}), "Most tokens to generate"));
  EXPECT_TRUE(output({"--version"}).starts_with("nibble "));
}

TEST(Failure, NamesWhatIsWrongWithAPrompt) {
  const TempDir folder;
  expect_failure(1, {"generate", "-m", kBundled, "-p", ""}, {"-p/--prompt: expected a prompt", "found none"});
  expect_failure(1, {"generate", "-m", kBundled}, {"standard input: expected a prompt"});
  expect_failure(1, {"generate", "-m", kBundled}, {"standard input: expected a prompt"}, "\n");
  expect_failure(1, {"generate", "-m", kBundled, "-f", folder / "absent"},
                 {folder / "absent: cannot be read: No such file or directory"});
  expect_failure(1, {"generate", "-m", kBundled, "-f", kBundled}, {kBundled + ": cannot be read: Is a directory"});
  expect_failure(1, {"generate", "-m", kBundled, "--lines"}, {"standard input, line 2: expected a prompt"}, "a\n\nb\n");
  expect_failure(1, {"generate", "-m", kTiny, "-p", "x"}, {"has no tokenizer; give token ids"});
  expect_failure(1, {"generate", "-m", kTiny, "--tokens", "2,96"}, {"expected token ids from 0 to 95, found 96"});
  expect_failure(1, {"generate", "-m", kTiny, "--tokens", "2,3,4,5", "-c", "3"},
                 {"prompt: expected at most 3 tokens (the context), found 4"});
}

TEST(Failure, NamesWhatIsWrongWithAModel) {
  const TempDir folder;
  expect_failure(1, {"generate", "-m", folder / "absent", "--tokens", "2"}, {folder / "absent"});
  expect_failure(1, {"generate", "-m", "synthetic:opt-1t", "--tokens", "2"}, {"synthetic:opt-1t"});
  expect_failure(1, {"inspect", "-m", folder / std::string(300, 'x')}, {"no such checkpoint directory: File name too"});
  expect_failure(1, {"quantize", kTiny, folder / std::string(300, 'x'), "--scheme", "nf4"}, {"File name too long"});
  expect_failure(1, {"quantize", kTiny, "", "--scheme", "nf4"}, {"expected the name of a directory to be made"});
  expect_failure(1, {"generate", "-m", kTiny, "--tokens", "2", "-c", "1000"}, {"context: expected", "found 1000"});
  for (const Arguments& command : {Arguments{"generate", "-p", "x"}, {"generate", "--dry-run"}, {"inspect"}}) {
    Arguments quantized_twice = command;
    quantized_twice.insert(quantized_twice.end(), {"-m", kBundled, "--scheme", "int8"});
    expect_failure(1, quantized_twice, {"q_proj.weight: is already quantized to nf4 and cannot be turned into int8"});
  }
  expect_failure(1, {"inspect", "-m", kTiny, "--tensor", "nope"}, {"no weight matrix named 'nope'"});
  expect_failure(1, {"quantize", "synthetic:opt-125m", folder / "out", "--scheme", "nf4"}, {"synthetic:opt-125m"});
  expect_failure(1, {"logits", "-m", kTiny, "--tokens", "2", "-o", folder / "absent/l.safetensors"}, {"absent/l."});
  expect_failure(1, {"logits", "-m", kTiny, "--tokens", "2,3", "-o", folder / "l", "--attention-mask", "1"},
                 {"attention_mask: expected one value a token (2), found 1"});
}

TEST(Failure, NamesWhatIsNotACheckpointDirectory) {
  const TempDir folder;
  const std::string gguf = write_file(folder / "model.gguf", "GGUF");
  const std::vector<std::string> refused{gguf + ": expected a checkpoint directory", "model.safetensors",
                                         "found a GGUF file, which nibble does not read"};
  expect_failure(1, {"generate", "-m", gguf, "--tokens", "2"}, refused);
  expect_failure(1, {"inspect", "-m", folder / ""}, refused);
  std::filesystem::copy(kTiny + "/config.json", folder / "config.json");
  expect_failure(1, {"generate", "-m", folder / "", "--dry-run"}, refused);
  const std::string file = write_file(folder / "file", "x");
  expect_failure(1, {"generate", "-m", file, "--tokens", "2"}, {file + ": is a file, expected a checkpoint directory"});
}

TEST(Failure, FindsWhatIsWrongWithAPromptBeforeLoading) {
  const TempDir folder;
  const std::string model = folder / "model";
  std::filesystem::copy(kTiny, model);
  std::string weights = read_file(model + "/model.safetensors");
  std::fill(weights.end() - 4096, weights.end(), '\xff');  // NaNs, which loading finds
  write_file(model + "/model.safetensors", weights);
  expect_failure(1, {"generate", "-m", model, "--tokens", "2"}, {"found a NaN"});
  expect_failure(1, {"generate", "-m", model, "--tokens", "2,96"}, {"token ids from 0 to 95, found 96"});
  expect_failure(1, {"generate", "-m", model, "--tokens", "2,3,4,5", "-c", "3"}, {"at most 3 tokens", "found 4"});
  expect_failure(1, {"generate", "-m", model, "-p", "x"}, {"has no tokenizer; give token ids"});
  expect_failure(1, {"perplexity", "-m", model, "-f", "x"}, {"has no tokenizer, which predicting a text needs"});
  expect_failure(1, {"logits", "-m", model, "--tokens", "96", "-o", folder / "l"}, {"found 96"});
  expect_failure(1, {"logits", "-m", model, "--tokens", "2", "-o", folder / "absent/l"},
                 {folder / "absent/l: cannot be written: No such file or directory"});
}

TEST(Failure, NamesTheCheckpointThatContradictsItself) {
  const TempDir folder;
  const std::string model = folder / "model";
  std::filesystem::copy(kTiny, model);
  Json config = Json::parse(read_file(model + "/config.json"));
  config["num_hidden_layers"] = 2147483647;
  write_file(model + "/config.json", config.dump());
  const std::vector<std::string> layers{"nibble: " + model + ": config.json: num_hidden_layers", "found 2147483647"};
  expect_failure(1, {"generate", "-m", model, "--tokens", "2"}, layers);
  expect_failure(1, {"generate", "-m", model, "--dry-run"}, layers);
  expect_failure(1, {"inspect", "-m", model}, layers);
  expect_failure(1, {"inspect", "-m", model, "--tensor", "decoder.layers.0.fc1"}, layers);
  expect_failure(1, {"quantize", model, folder / "out", "--scheme", "nf4"}, layers);
  config["num_hidden_layers"] = 2;
  config["ffn_dim"] = 32;
  write_file(model + "/config.json", config.dump());
  expect_failure(1, {"generate", "-m", model, "--tokens", "2"},
                 {"nibble: " + model, "decoder.layers.0.fc1.", "expected", "found"});
}

TEST(Failure, NamesWhatIsWrongWithATextToPredict) {
  const TempDir folder;
  const std::string text = write_file(folder / "text", "The sea was still.");
  expect_failure(1, {"perplexity", "-m", kBundled, "-f", folder / "absent"}, {folder / "absent: cannot be read"});
  expect_failure(1, {"perplexity", "-m", kTiny, "-f", text}, {"has no tokenizer"});
  expect_failure(1, {"perplexity", "-m", kBundled, "-f", text},
                 {text + ": expected at least one window of 512 tokens, found 5"});
  expect_failure(1, {"perplexity", "-m", kBundled, "-f", text, "--window", "1024"},
                 {"--window: expected at most 1023 tokens", "found 1024"});
  expect_failure(1, {"perplexity", "-m", kBundled, "-f", text, "--window", "4", "--stride", "5"},
                 {"--stride: expected at most the window's 4 tokens, found 5"});
  expect_failure(1, {"perplexity", "-m", kBundled, "-f", text, "--window", "4", "--base-model", kTiny},
                 {"--base-model: expected the tokens of", "(8192), found others (96)"});
}

TEST(Failure, FindsWhatCannotBeMeasuredBeforeMeasuring) {
  expect_failure(1, {"bench", "-m", kTiny, "-p", "4,100"}, {"context: expected 0 to 80 tokens", "found 100"});
  const Arguments bench{"bench", "-m", kBundled, "-p", "4", "-n", "0", "-r", "1", "-o", "json"};
  const auto with = [&](Arguments more) {
    more.insert(more.begin(), bench.begin(), bench.end());
    return more;
  };
  const TempDir folder;
  const std::string text = write_file(folder / "text", "The sea was still.");
  expect_failure(1, with({"--scheme", "nf4,int8"}), {"is already quantized to nf4"});
  expect_failure(1, with({"--perplexity", folder / "absent"}), {folder / "absent: cannot be read"});
  expect_failure(1, with({"--perplexity", text, "--window", "4", "-m", kTiny}), {"has no tokenizer"});
  expect_usage({"bench", "-m", kTiny, "-p", "0", "-n", "0"}, {"expected something to measure"});
  expect_usage({"bench", "-m", kTiny, "--window", "5"}, {"--window requires --perplexity"});
  expect_failure(1, {"bench", "-m", kTiny, "-m", "synthetic:opt-1t", "-p", "4", "-n", "4"}, {"synthetic:opt-1t"});
}

TEST(Failure, SaysThatAModelWillNotFitBeforeLoadingIt) {
  expect_failure(1, {"generate", "-m", "synthetic:opt-175b", "--scheme", "none", "--tokens", "2"},
                 {"synthetic:opt-175b needs 3", " MB of weights", "but the cpu has ", " MB left"});
}

TEST(Failure, SaysThatStandardOutputCannotBeWritten) {
  if (!std::filesystem::exists("/dev/full")) GTEST_SKIP() << "there is no /dev/full";
  const TempDir folder;
  const std::string command = program() + " --version >/dev/full 2>" + (folder / "err");
  EXPECT_EQ(WEXITSTATUS(std::system(command.c_str())), 1);
  EXPECT_EQ(read_file(folder / "err"), "nibble: standard output: cannot be written: No space left on device\n");
}

}  // namespace
}  // namespace nibble::testing
