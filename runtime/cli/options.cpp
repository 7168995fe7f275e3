#include "runtime/cli/options.h"

#include <spdlog/fmt/fmt.h>

#include <array>
#include <random>

namespace nibble::cli {
namespace {

template <class T>
OptionChange set(T GenerateOptions::*member, T value) {
  return [member, value](GenerateOptions& options) { options.*member = value; };
}

OptionChange read_max_tokens(const FlagValue& value) {
  constexpr int kUnlimited = std::numeric_limits<int>::max();
  const int count =
      value.text() == "-1" ? kUnlimited : value.number<int>("a whole number of at least 1, or -1 for no limit", 1);
  return set(&GenerateOptions::max_tokens, count);
}

OptionChange read_seed(const FlagValue& value) {
  const std::uint64_t seed = value.text() == "-1"
                                 ? std::random_device{}()
                                 : value.number<std::uint64_t>("a whole number of at least 0, or -1 to draw one", 0);
  return set(&GenerateOptions::seed, seed);
}

/// "a number from 1e-06 to 1e+06"
std::string number_in_range() {
  return fmt::format("a number from {:g} to {:g}", GenerateOptions::kLeast, GenerateOptions::kMost);
}

OptionChange read_temperature(const FlagValue& value) {
  const std::string expected = "0 or " + number_in_range();
  const auto temperature = value.number(expected, 0.0F, GenerateOptions::kMost);
  if (temperature > 0 && temperature < GenerateOptions::kLeast) value.fail(expected);
  return set(&GenerateOptions::temperature, temperature);
}

OptionChange read_top_k(const FlagValue& value) {
  return set(&GenerateOptions::top_k, value.number("a whole number of at least 0", 0));
}

OptionChange read_top_p(const FlagValue& value) {
  return set(&GenerateOptions::top_p, value.number("a number from 0 to 1", 0.0F, 1.0F));
}

OptionChange read_min_p(const FlagValue& value) {
  return set(&GenerateOptions::min_p, value.number("a number from 0 to 1", 0.0F, 1.0F));
}

OptionChange read_repeat_penalty(const FlagValue& value) {
  return set(&GenerateOptions::repetition_penalty,
             value.number(number_in_range(), GenerateOptions::kLeast, GenerateOptions::kMost));
}

constexpr std::array<SamplingFlag, 7> kSamplingFlags{{
    {"-n,--n-predict", "N",
     "Most tokens to generate, -1: until the context is full (default: the checkpoint's, else 128)", read_max_tokens},
    {"-s,--seed", "N", "Seed of the draws, -1: a new one each time (default: 0)", read_seed},
    {"--temp", "T", "Temperature, 1e-6 to 1e6; 0: always the likeliest token (default: the checkpoint's, else 0)",
     read_temperature},
    {"--top-k", "K", "Draw from the K likeliest tokens, 0: from all (default: the checkpoint's, else 0)", read_top_k},
    {"--top-p", "P",
     "Draw from the likeliest tokens that together have probability P (default: the checkpoint's, else 1)", read_top_p},
    {"--min-p", "P", "Drop tokens less likely than P times the likeliest (default: the checkpoint's, else 0)",
     read_min_p},
    {"--repeat-penalty", "X",
     "Divide the logits of tokens already there by X, 1e-6 to 1e6 (default: the checkpoint's, else 1)",
     read_repeat_penalty},
}};

}  // namespace

std::string scheme_names(std::string_view conjunction) {
  std::string names;
  for (const Scheme scheme : kSchemes) {
    if (scheme == kSchemes.back()) {
      names += " " + std::string(conjunction) + " ";
    } else if (!names.empty()) {
      names += ", ";
    }
    names += to_string(scheme);
  }
  return names;
}

CLI::Option* add_weight_flags(CLI::App& app, LoadOptions& load) {
  CLI::Option* scheme = add_value(
      app, "--scheme", "NAME",
      [&](const FlagValue& value) { load.scheme = value.name(scheme_names("or"), parse_scheme); },
      "Hold the linear weights as " + scheme_names("or") + " (default: as the checkpoint has them)");
  add_value(
      app, "--dtype", "TYPE",
      [&](const FlagValue& value) {
        if (value.text() != "auto") load.compute_dtype = value.name("auto, fp32, bf16 or fp16", parse_compute_dtype);
      },
      "Compute in auto, fp32, bf16 or fp16; auto: the checkpoint's own (default: auto)");
  add_value(
      app, "--embedding", "STORAGE",
      [&](const FlagValue& value) { load.embedding = value.name("compute or int8", parse_embedding); },
      "Keep the token table in compute (the compute dtype) or int8 (default: as the checkpoint has it)");
  add_value(
      app, "--blocksize", "N",
      [&](const FlagValue& value) {
        const int size = value.number("32, 64, 128, 256, 512, 1024, 2048 or 4096", 32, 4096);
        if ((size & (size - 1)) != 0) value.fail("32, 64, 128, 256, 512, 1024, 2048 or 4096");
        load.blocksize = size;
      },
      "Weights that share a scale in 4-bit schemes (default: as the checkpoint has them, else 64, in int4 128)");
  add_value(
      app, "-t,--threads", "N",
      [&](const FlagValue& value) { load.threads = value.number("a whole number from 0 to 1024", 0, 1024); },
      "Threads, 0: one a core (default: 0)");
  return scheme;
}

void add_model_flags(CLI::App& app, ModelArguments& arguments) {
  app.add_option("-m,--model", arguments.model, "Checkpoint directory, or synthetic:opt-SIZE (125m to 175b)")
      ->type_name("DIR")
      ->take_last()
      ->required();
  add_weight_flags(app, arguments.load);
}

void add_compute_flags(CLI::App& app, LoadOptions& load) {
  add_value(
      app, "--device", "NAME", [&](const FlagValue& value) { load.device = value.name("cpu or cuda", parse_device); },
      "Compute on cpu or cuda (default: cpu)");
  add_cpu_flags(app, load);
}

void add_cpu_flags(CLI::App& app, LoadOptions& load) {
  add_value(
      app, "--cpu-target", "NAME", [&](const FlagValue& value) { load.cpu_target = value.text(); },
      "Use portable, avx2, avx512, avx512-vnni, avx512-bf16 or amx instructions (default: the fastest of this "
      "machine)");
  app.add_flag("--pin-threads", load.pin_threads,
               "Keep each thread on a core of its own, of those that taskset allows (default: the system moves them)");
  app.add_flag("--int8-activations", load.int8_activations,
               "Round activations to 8 bits where weights are int8: prompts are read faster, quality suffers "
               "(perplexity of the bundled model by 0.3 %), most in "
               "models of 6.7b and more, whose activations have outliers (default: off)");
}

std::string_view SamplingFlag::name() const {
  const std::string_view all = names;
  return all.substr(all.rfind("--") + 2);
}

std::span<const SamplingFlag> sampling_flags() { return kSamplingFlags; }

void add_sampling_flags(CLI::App& app, std::vector<OptionChange>& changes) {
  for (const SamplingFlag& flag : kSamplingFlags) {
    add_value(
        app, flag.names, flag.type, [&](const FlagValue& value) { changes.push_back(flag.read(value)); }, flag.help);
  }
  app.add_flag_callback(
      "--ignore-eos", [&] { changes.push_back(set(&GenerateOptions::ignore_eos, true)); },
      "Go on past the end-of-text token");
  app.add_option_function<std::vector<std::string>>(
         "-r,--reverse-prompt",
         [&](const std::vector<std::string>& stop) { changes.push_back(set(&GenerateOptions::stop, stop)); },
         "Stop before this text; may be given several times")
      ->type_name("TEXT")
      ->allow_extra_args(false);
}

}  // namespace nibble::cli
