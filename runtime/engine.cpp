#include "nibble/engine.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <set>

#include "nibble/error.h"
#include "runtime/engine_impl.h"
#include "runtime/loading.h"
#include "runtime/log.h"
#include "runtime/process_memory.h"
#include "runtime/session_impl.h"

namespace nibble {
namespace {

std::unique_ptr<Tokenizer> find_tokenizer(const std::string& model) {
  return is_synthetic(model) ? nullptr : open_tokenizer(model);
}

void check_vocabulary(const Tokenizer& tokenizer, const ModelConfig& config, const std::string& model) {
  if (tokenizer.vocab_size() <= config.vocab_size) return;
  throw Error(ErrorKind::kFormat, model + ": the tokenizer and config.json disagree: expected at most " +
                                      std::to_string(config.vocab_size) + " tokens (vocab_size), found " +
                                      std::to_string(tokenizer.vocab_size()));
}

/// Warns about tensors that the model does not use: they usually mean a wrong config.json. A head beside the token
/// table that config.json ties it to is not read, as in transformers, and means nothing.
void report_unused(const ParameterSource& source, const ModelConfig& config) {
  std::set<std::string> used{"lm_head.weight"};
  for (const Parameter& p : list_parameters(config, source)) {
    used.insert(p.kind == Parameter::Kind::kVector ? p.name : p.name + ".weight");
  }
  constexpr std::array kParts{".SCB", ".qzeros", ".scales", ".g_idx"};  // of bitsandbytes int8, GPTQ and AWQ
  const auto is_used = [&](const std::string& name) {
    const std::size_t state = name.rfind(".weight");  // X.weight.absmax, X.weight_format belong to X.weight
    const bool part = std::ranges::any_of(kParts, [&](const char* suffix) { return name.ends_with(suffix); });
    return used.contains(name) || part || (state != std::string::npos && used.contains(name.substr(0, state + 7)));
  };
  for (const std::string& name : source.tensors()) {
    if (!is_used(name)) log(LogLevel::kWarning, "tensor '" + name + "' is not part of the model and is ignored");
  }
}

/// "0.31 s" since then.
std::string show_seconds(std::chrono::steady_clock::time_point start) {
  std::array<char, 32> text{};
  std::snprintf(text.data(), text.size(), "%.2f s",
                std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  return text.data();
}

ModelInfo describe(const std::string& model, const ModelConfig& config, const StoragePolicy& policy,
                   const ParameterSource& source, bool has_tokenizer) {
  const bool int8_table = policy.embedding ? *policy.embedding == EmbeddingStorage::kInt8
                                           : source.describe(token_table_name(source)).storage.scheme == Scheme::kInt8;
  return {.name = is_synthetic(model) ? model : std::filesystem::path(model).lexically_normal().string(),
          .architecture = config.model_type,
          .scheme = linear_scheme(policy, source),
          .compute_dtype = policy.compute_dtype,
          .embedding = int8_table ? EmbeddingStorage::kInt8 : EmbeddingStorage::kCompute,
          .layers = config.num_hidden_layers,
          .hidden_size = config.hidden_size,
          .ffn_dim = config.ffn_dim,
          .heads = config.num_attention_heads,
          .vocab_size = config.vocab_size,
          .context = config.max_position_embeddings,
          .has_tokenizer = has_tokenizer};
}

}  // namespace

const Tokenizer& Engine::Impl::require_tokenizer() const {
  if (tokenizer != nullptr) return *tokenizer;
  throw Error(ErrorKind::kUnsupported, info.name + ": has no tokenizer; give token ids in place of text");
}

Engine Engine::open(const std::string& model, const LoadOptions& options, const Progress& progress) try {
  const auto start = std::chrono::steady_clock::now();
  const auto source = open_source(model, options.seed);
  const StoragePolicy policy = resolve_policy(options, *source);
  require_memory(predict_weights(*source, policy).weights(), options.device, model);
  auto tokenizer = find_tokenizer(model);
  const auto backend = make_backend(options.device, {.threads = options.threads, .target = options.cpu_target});
  OptModel opt = OptModel::load(*source, policy, *backend, progress);
  if (tokenizer != nullptr) check_vocabulary(*tokenizer, opt.config(), model);
  report_unused(*source, opt.config());

  ModelInfo info = describe(model, opt.config(), policy, *source, tokenizer != nullptr);
  log(LogLevel::kInfo, info.name + ": " + std::string(to_string(info.scheme)) + " weights, computing in " +
                           std::string(to_string(info.compute_dtype)) + ", " + show_megabytes(opt.ledger().weights()) +
                           ", loaded in " + show_seconds(start));
  return Engine(std::make_shared<const Impl>(
      Impl{std::move(info), std::move(opt), source->generation(), std::move(tokenizer), options}));
} catch (const Error& error) {
  rethrow_naming(model, error);
}

const ModelInfo& Engine::info() const { return impl_->info; }

GenerateOptions Engine::default_options() const {
  const GenerationConfig& config = impl_->generation;
  GenerateOptions options;
  options.max_tokens = config.max_new_tokens.value_or(options.max_tokens);
  options.repetition_penalty = config.repetition_penalty;
  options.eos_tokens = config.eos_token_id;
  if (config.do_sample) {
    options.temperature = config.temperature;
    options.top_k = config.top_k;
    options.top_p = config.top_p;
    options.min_p = config.min_p;
  }
  return options;
}

std::vector<int> Engine::tokenize(std::string_view text) const { return impl_->require_tokenizer().encode(text); }

std::vector<int> Engine::prefix_tokens() const { return impl_->require_tokenizer().ends().prefix; }

std::vector<int> Engine::suffix_tokens() const { return impl_->require_tokenizer().ends().suffix; }

std::string Engine::detokenize(std::span<const int> tokens) const { return decode(impl_->require_tokenizer(), tokens); }

Session Engine::session(const SessionOptions& options) const {
  return Session(std::make_unique<Session::Impl>(impl_, options));
}

ModelInfo describe_model(const std::string& model, const LoadOptions& load) try {
  const auto source = open_source(model, load.seed);
  return describe(model, resolve_config(*source), resolve_policy(load, *source), *source,
                  !is_synthetic(model) && has_tokenizer(model));
} catch (const Error& error) {
  rethrow_naming(model, error);
}

void check_prompt(std::span<const int> prompt, const ModelInfo& info, const SessionOptions& session) {
  const auto fail = [](const std::string& sentence) {
    throw Error(ErrorKind::kInvalidArgument, "prompt: expected " + sentence);
  };
  if (prompt.empty()) fail("at least one token, found none");
  const int context = session.context == 0 ? info.context : session.context;
  if (prompt.size() > static_cast<std::size_t>(context)) {
    fail("at most " + std::to_string(context) + " tokens (the context), found " + std::to_string(prompt.size()));
  }
  const auto wrong = std::ranges::find_if(prompt, [&](int id) { return id < 0 || id >= info.vocab_size; });
  if (wrong != prompt.end()) {
    fail("token ids from 0 to " + std::to_string(info.vocab_size - 1) + ", found " + std::to_string(*wrong));
  }
}

MemoryLedger predict_memory(const std::string& model, const LoadOptions& load, const SessionOptions& session) try {
  const std::uint64_t resident = resident_memory();  // before what is only looked at for this
  const auto source = open_source(model, load.seed);
  const StoragePolicy policy = resolve_policy(load, *source);
  const SessionPlan plan = plan_session(session, source->config(), load.device);
  MemoryLedger ledger = predict_weights(*source, policy);
  ledger[MemoryClass::kKvCache] = cache_bytes(plan, source->config(), policy.compute_dtype);
  ledger[MemoryClass::kWorkspace] = workspace_bytes(plan, source->config(), policy.compute_dtype, load);
  const auto tokenizer = find_tokenizer(model);
  ledger[MemoryClass::kTokenizer] = tokenizer == nullptr ? 0 : tokenizer->memory_bytes();
  ledger.process_resident = resident;
  return ledger;
} catch (const Error& error) {
  rethrow_naming(model, error);
}

std::string_view version() { return "nibble " NIBBLE_VERSION; }

}  // namespace nibble
