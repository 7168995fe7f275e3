#include "runtime/cli/json.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string>

#include "runtime/cli/render.h"
#include "runtime/cli/speed.h"

namespace nibble::cli {
namespace {

Json logprob_json(const TokenLogprob& logprob) { return {{"id", logprob.id}, {"logprob", logprob.logprob}}; }

}  // namespace

Json model_json(const ModelInfo& info) {
  return {{"name", info.name},
          {"architecture", info.architecture},
          {"scheme", to_string(info.scheme)},
          {"compute_dtype", to_string(info.compute_dtype)},
          {"embedding", info.embedding == EmbeddingStorage::kInt8 ? "int8" : "compute"},
          {"layers", info.layers},
          {"hidden_size", info.hidden_size},
          {"ffn_dim", info.ffn_dim},
          {"heads", info.heads},
          {"vocab_size", info.vocab_size},
          {"context", info.context}};
}

Json ledger_json(const MemoryLedger& ledger) {
  Json json;
  for (int i = 0; i < kMemoryClasses; ++i) {
    const auto memory_class = static_cast<MemoryClass>(i);
    std::string key(to_string(memory_class));
    std::ranges::replace(key, ' ', '_');
    json[key] = ledger[memory_class];
  }
  json["weights"] = ledger.weights();
  json["total"] = ledger.total();
  json["huggingface"] = ledger.huggingface;
  json["parameters"] = ledger.parameters;
  json["process_resident"] = ledger.process_resident;
  json["device_overhead"] = ledger.device_overhead;
  return json;
}

Json stats_json(const GenerateStats& stats) {
  return {{"prompt_tokens", stats.prompt_tokens},           {"prefill_tokens", stats.prefill_tokens},
          {"prefill_seconds", stats.prefill_seconds},       {"prefill_tokens_per_second", prefill_rate(stats)},
          {"decode_tokens", stats.decode_tokens},           {"decode_seconds", stats.decode_seconds},
          {"decode_tokens_per_second", decode_rate(stats)}, {"first_token_seconds", stats.first_token_seconds}};
}

Json completion_json(const Completion& completion) {
  Json json{{"prompt_ids", completion.prompt},
            {"ids", completion.tokens},
            {"text", completion.text},
            {"finish", to_string(completion.finish)}};
  for (const std::vector<TokenLogprob>& token : completion.logprobs) {
    Json chosen = logprob_json(token.front());
    chosen["likeliest"] = Json::array();
    std::for_each(token.begin() + 1, token.end(),
                  [&](const TokenLogprob& other) { chosen["likeliest"].push_back(logprob_json(other)); });
    json["logprobs"].push_back(std::move(chosen));
  }
  return json;
}

std::string json_text(const Json& document, int indent) {
  return document.dump(indent, ' ', false, Json::error_handler_t::replace);
}

void print_json(const Json& document) { print(json_text(document, 2) + "\n"); }

}  // namespace nibble::cli
