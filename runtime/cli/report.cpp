#include "runtime/cli/report.h"

#include <array>
#include <cstdio>
#include <iostream>

#include "runtime/cli/ledger.h"

namespace nibble {
namespace {

using Json = nlohmann::ordered_json;

double rate(int tokens, double seconds) { return seconds > 0 ? tokens / seconds : 0; }

void print_speed(std::ostream& out, const char* name, int tokens, double seconds) {
  std::array<char, 160> line{};
  std::snprintf(line.data(), line.size(), "%s time = %9.2f ms / %5d tokens (%8.2f ms per token, %9.2f tokens per second)\n",
                name, seconds * 1e3, tokens, tokens > 0 ? seconds * 1e3 / tokens : 0, rate(tokens, seconds));
  out << line.data();
}

Json completion_json(const Completion& completion, bool with_logprobs) {
  Json json = {{"prompt_tokens", completion.prompt},
               {"tokens", completion.tokens},
               {"text", completion.text},
               {"finish_reason", to_string(completion.finish)}};
  if (!with_logprobs) return json;
  json["logprobs"] = Json::array();
  for (const auto& of_token : completion.logprobs) {
    Json likeliest = Json::array();
    for (std::size_t i = 1; i < of_token.size(); ++i) {
      likeliest.push_back({{"id", of_token[i].id}, {"logprob", of_token[i].logprob}});
    }
    json["logprobs"].push_back(
        {{"id", of_token[0].id}, {"logprob", of_token[0].logprob}, {"likeliest", std::move(likeliest)}});
  }
  return json;
}

Json stats_json(const GenerateStats& stats) {
  return {{"prompt_tokens", stats.prompt_tokens},
          {"prefill_tokens", stats.prefill_tokens},
          {"prefill_seconds", stats.prefill_seconds},
          {"prefill_tokens_per_second", rate(stats.prefill_tokens, stats.prefill_seconds)},
          {"decode_tokens", stats.decode_tokens},
          {"decode_seconds", stats.decode_seconds},
          {"decode_tokens_per_second", rate(stats.decode_tokens, stats.decode_seconds)},
          {"first_token_seconds", stats.first_token_seconds}};
}

}  // namespace

void print_report(std::ostream& out, const LoadedModel& model) {
  const GenerateStats& stats = model.session.last_stats();
  print_speed(out, "prefill", stats.prefill_tokens, stats.prefill_seconds);
  print_speed(out, " decode", stats.decode_tokens, stats.decode_seconds);
  std::array<char, 64> line{};
  std::snprintf(line.data(), line.size(), "time to first token = %.2f ms\n\n", stats.first_token_seconds * 1e3);
  out << line.data();
  print_ledger(out, model.predicted, model.session.memory());
}

Json generation_json(const LoadedModel& model, const GenerateOptions& options,
                     const std::vector<Completion>& completions) {
  const ModelInfo& info = model.engine.info();
  Json document = {{"model", info.name},
                   {"scheme", to_string(info.scheme)},
                   {"compute_dtype", to_string(info.compute_dtype)},
                   {"seed", options.seed},
                   {"completions", Json::array()}};
  for (const Completion& completion : completions) {
    document["completions"].push_back(completion_json(completion, options.logprobs >= 0));
  }
  document["stats"] = stats_json(model.session.last_stats());
  document["memory"] = {{"predicted", ledger_json(model.predicted)}, {"measured", ledger_json(model.session.memory())}};
  return document;
}

void print_json(const Json& document) {
  std::cout << document.dump(2, ' ', false, Json::error_handler_t::replace) << '\n';
}

}  // namespace nibble
