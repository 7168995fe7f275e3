#include "nibble/session.h"

#include <algorithm>
#include <chrono>
#include <functional>
#include <optional>
#include <string>

#include "nibble/error.h"
#include "runtime/log.h"
#include "runtime/process_memory.h"
#include "runtime/sampler.h"
#include "runtime/session_impl.h"
#include "runtime/stop_text.h"
#include "tokenizer/stream_decoder.h"

namespace nibble {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

std::size_t index(int value) { return static_cast<std::size_t>(value); }

/// One sequence while it is generated.
class Sequence {
 public:
  Sequence(int number, std::span<const int> prompt, const GenerateOptions& options, const Tokenizer* tokenizer,
           int context)
      : number_(number), options_(options), context_(context), stop_text_(options.stop) {
    history_.reserve(index(context));  // so that no token has to wait for memory
    history_.assign(prompt.begin(), prompt.end());
    completion_.prompt = history_;
    completion_.tokens.reserve(std::min(index(context) - prompt.size(), index(options.max_tokens)));
    if (tokenizer != nullptr) decoder_.emplace(*tokenizer, StreamDecoder::Start::kContinuation);
  }

  bool running() const { return !finish_; }
  int number() const { return number_; }

  /// Tokens that are being chosen and have not been accepted yet.
  int asked() const { return asked_; }
  /// Whether it goes on behind those, as far as is known without them.
  bool wants_more() const { return running() && !reason_to_finish_behind(asked_); }
  /// What is to be read next; valid until the next call.
  std::span<const int> next_token() {
    if (asked_ == 0) return std::span(history_).last(1);
    unknown_ = chosen_before(output_);
    return {&unknown_, 1};
  }
  /// Asks for the token behind it, as output `output` of a step, and says how it is to be chosen.
  Choice ask(std::size_t output) {
    output_ = output;
    const int count = static_cast<int>(completion_.tokens.size()) + asked_++;
    return {.temperature = options_.temperature,
            .top_k = options_.top_k,
            .top_p = options_.top_p,
            .min_p = options_.min_p,
            .repetition_penalty = options_.repetition_penalty,
            .random = random_bits(options_.seed, number_, count),
            .seen = options_.repetition_penalty == 1.0F ? std::span<const int>() : history_};
  }

  /// Takes `id` as the next token, tells the caller, and decides whether it was the last.
  void accept(int id, std::vector<TokenLogprob> logprobs, const OnStep& on_step) {
    --asked_;
    history_.push_back(id);
    completion_.tokens.push_back(id);
    const std::string text = take_text(id);
    completion_.text += text;
    const bool wanted = !on_step || on_step({number_, id, text, logprobs});
    if (options_.logprobs >= 0) completion_.logprobs.push_back(std::move(logprobs));
    if (!wanted && running()) finish_ = FinishReason::kCancelled;
  }

  /// Ends it before its first token.
  void cancel() { finish_ = FinishReason::kCancelled; }

  Completion take_completion() {
    completion_.finish = *finish_;
    return std::move(completion_);
  }

 private:
  /// The text that token `id` lets out; sets finish_.
  std::string take_text(int id) {
    std::string text = decoder_ ? stop_text_.push(decoder_->push(id)) : std::string();
    finish_ = reason_to_finish(id);
    if (finish_ && decoder_ && !stop_text_.stopped()) {
      text += stop_text_.push(decoder_->finish());
      text += stop_text_.finish();
    }
    return text;
  }

  std::optional<FinishReason> reason_to_finish(int id) const {
    if (stop_text_.stopped()) return FinishReason::kStopString;
    if (!options_.ignore_eos && std::ranges::find(options_.eos_tokens, id) != options_.eos_tokens.end()) {
      return FinishReason::kEndOfText;
    }
    return reason_to_finish_behind(0);
  }

  /// The same for `more` tokens, whatever they are.
  std::optional<FinishReason> reason_to_finish_behind(int more) const {
    if (static_cast<int>(completion_.tokens.size()) + more >= options_.max_tokens) return FinishReason::kMaxTokens;
    if (static_cast<int>(history_.size()) + more >= context_) return FinishReason::kContextFull;
    return std::nullopt;
  }

  int number_;
  const GenerateOptions& options_;
  int context_;
  StopText stop_text_;
  std::optional<StreamDecoder> decoder_;
  std::vector<int> history_;
  Completion completion_;
  std::optional<FinishReason> finish_;
  int asked_ = 0;
  std::size_t output_ = 0;  // of the step that was asked last
  int unknown_ = 0;
};

}  // namespace

std::string_view to_string(FinishReason reason) {
  switch (reason) {
    case FinishReason::kMaxTokens:
      return "max_tokens";
    case FinishReason::kEndOfText:
      return "end_of_text";
    case FinishReason::kStopString:
      return "stop_string";
    case FinishReason::kContextFull:
      return "context_full";
    case FinishReason::kCancelled:
      break;
  }
  return "cancelled";
}

Session::Impl::Impl(std::shared_ptr<const Engine::Impl> shared, const SessionOptions& options)
    : engine(std::move(shared)),
      plan(plan_session(options, engine->model.config(), engine->options.device)),
      packer(plan.step_rows) {
  const ModelConfig& config = engine->model.config();
  const LoadOptions& load = engine->options;
  const DType dtype = engine->model.compute_dtype();
  const std::uint64_t cached = cache_bytes(plan, config, dtype);
  const std::uint64_t workspace = workspace_bytes(plan, config, dtype, load);
  require_memory(cached + workspace, load.device,
                 "a session of " + std::to_string(plan.sequences) + " x " + std::to_string(plan.context) + " tokens");
  backend = make_backend(load.device, {load.threads, load.cpu_target, load.pin_threads, load.int8_activations});
  log(LogLevel::kInfo, "computing on " + backend->description());
  constexpr std::size_t kBuffers = 5;  // scratch, keys, values, activations and results
  backend->make_room(cached + workspace - logits_bytes(plan, config), kBuffers);
  backend->reserve(plan.extent());
  cache = {backend->allocate(cached / 2),
           backend->allocate(cached / 2),
           dtype,
           config.num_hidden_layers,
           plan.sequences,
           config.num_attention_heads,
           plan.context,
           config.head_dim()};
  activations = backend->allocate(OptModel::activation_bytes(config, dtype, plan.step_rows));
  results = backend->allocate(OptModel::result_bytes(config, dtype, plan.outputs));
  logits.resize(index(plan.outputs) * index(config.vocab_size));
  chosen.reserve(index(plan.sequences));
  held.resize(index(plan.sequences));
  for (auto& tokens : held) tokens.reserve(index(plan.context));
}

void Session::Impl::check_tokens(std::span<const int> tokens) const {
  check_prompt(tokens, engine->info, {.context = plan.context});
}

void Session::Impl::hold(const Batch& batch) {
  for (const Segment& segment : batch.segments) {
    const auto tokens = batch.tokens.subspan(index(segment.first_row), index(segment.rows));
    auto& sequence = held[index(segment.sequence)];
    sequence.insert(sequence.end(), tokens.begin(), tokens.end());
  }
}

int Session::Impl::start(std::span<const Choice> choices) {
  const OptModel& model = engine->model;
  Batch batch = packer.next(held);
  batch.choices = choices.first(batch.outputs.size());
  const auto step = [&] {
    const Tensor hidden = model.forward(*backend, batch, cache, activations);
    if (batch.outputs.empty()) return;
    backend->choose(model.logits(*backend, model.outputs(*backend, batch, hidden, results), results));
  };
  backend->begin(batch);
  constexpr std::uint64_t kKey = 0;
  backend->repeat(kKey, std::ref(step));  // not a copy, which would need memory
  hold(batch);
  return static_cast<int>(batch.tokens.size());
}

void Session::Impl::take(int steps_back, Want want) {
  const auto found = backend->chosen(steps_back);
  if (want == Want::kTokensAndLogits) {
    const std::size_t vocabulary = index(engine->info.vocab_size);
    backend->copy_to_host(engine->model.logits_in(results, found.size()),
                          std::span(logits).subspan(chosen.size() * vocabulary, found.size() * vocabulary));
  }
  chosen.insert(chosen.end(), found.begin(), found.end());
}

int Session::Impl::read(std::span<const Feed> feeds, int total, std::span<const Choice> choices, Want want,
                        const OnRead& on_read) {
  chosen.clear();
  packer.start(feeds);
  int done = 0;
  while (done < total) {
    done += start(choices.subspan(chosen.size()));
    take(0, want);
    if (done < total && on_read && !on_read(done, total)) break;
  }
  return done;
}

std::span<const int> Session::Impl::keep_prefix(int sequence, std::span<const int> tokens) {
  auto& have = held[index(sequence)];
  const auto common = std::ranges::mismatch(have, tokens.first(tokens.size() - 1)).in1 - have.begin();
  have.resize(static_cast<std::size_t>(common));
  return tokens.subspan(static_cast<std::size_t>(common));
}

Session::Session(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Session::Session(Session&&) noexcept = default;
Session& Session::operator=(Session&&) noexcept = default;
Session::~Session() = default;

std::vector<Completion> Session::generate(std::span<const std::vector<int>> prompts, const GenerateOptions& options,
                                          const OnStep& on_step, const OnRead& on_read) {
  check_options(options);
  if (prompts.empty() || prompts.size() > index(impl_->plan.sequences)) {
    throw Error(ErrorKind::kInvalidArgument, "prompts: expected 1 to " + std::to_string(impl_->plan.sequences) +
                                                 " (the session's sequences), found " + std::to_string(prompts.size()));
  }
  for (const auto& prompt : prompts) impl_->check_tokens(prompt);
  if (!options.stop.empty()) impl_->engine->require_tokenizer();

  impl_->stats = {};
  GenerateStats& stats = impl_->stats;
  const auto start = Clock::now();
  std::vector<Sequence> sequences;
  sequences.reserve(prompts.size());
  std::vector<Feed> feeds;
  std::vector<Choice> choices;
  int to_read = 0;
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    const auto number = static_cast<int>(i);
    sequences.emplace_back(number, prompts[i], options, impl_->engine->tokenizer.get(), impl_->plan.context);
    feeds.push_back({number, impl_->keep_prefix(number, prompts[i])});
    choices.push_back(sequences.back().ask(i));
    stats.prompt_tokens += static_cast<int>(prompts[i].size());
    to_read += static_cast<int>(feeds.back().tokens.size());
  }

  const Impl::Want want = options.logprobs < 0 ? Impl::Want::kTokens : Impl::Want::kTokensAndLogits;
  const auto advance = [&](Sequence& sequence, std::size_t output) {
    const int id = impl_->chosen[output];
    sequence.accept(id,
                    want == Impl::Want::kTokens ? std::vector<TokenLogprob>()
                                                : logprobs(impl_->logits_row(output), id, options.logprobs),
                    on_step);
    // The step behind this one reads it already.
    if (sequence.running() && sequence.asked() > 0) impl_->held[index(sequence.number())].back() = id;
  };
  stats.prefill_tokens = impl_->read(feeds, to_read, choices, want, on_read);
  stats.prefill_seconds = seconds_since(start);
  for (std::size_t i = 0; i < sequences.size(); ++i) {
    if (stats.prefill_tokens == to_read) {
      advance(sequences[i], i);
    } else {
      sequences[i].cancel();
    }
  }
  stats.first_token_seconds = seconds_since(start);

  const auto decode_start = Clock::now();
  const auto start_step = [&](std::vector<Sequence*>& step) {
    feeds.clear();
    choices.clear();
    step.clear();
    for (Sequence& sequence : sequences) {
      if (!sequence.wants_more()) continue;
      feeds.push_back({sequence.number(), sequence.next_token()});
      choices.push_back(sequence.ask(step.size()));
      step.push_back(&sequence);
    }
    impl_->packer.start(feeds);
    if (!feeds.empty()) impl_->start(choices);
  };
  // A step is started while the one in front of it is computed, unless the host has to know first what came of that.
  const bool ahead =
      impl_->backend->works_in_background() && want == Impl::Want::kTokens && options.repetition_penalty == 1.0F;
  std::vector<Sequence*> step, next;
  step.reserve(sequences.size());
  next.reserve(sequences.size());
  start_step(step);
  while (std::ranges::any_of(sequences, &Sequence::running)) {
    if (ahead) start_step(next);
    impl_->chosen.clear();
    impl_->take(next.empty() ? 0 : 1, want);
    for (std::size_t i = 0; i < step.size(); ++i) {
      if (!step[i]->running()) continue;  // it ended when this step was under way already
      advance(*step[i], i);
      ++stats.decode_tokens;
    }
    if (!ahead) start_step(next);
    step.swap(next);
    next.clear();
  }
  stats.decode_seconds = seconds_since(decode_start);

  std::vector<Completion> completions;
  for (Sequence& sequence : sequences) completions.push_back(sequence.take_completion());
  return completions;
}

Completion Session::generate(std::string_view prompt, const GenerateOptions& options, const OnStep& on_step,
                             const OnRead& on_read) {
  const std::vector<std::vector<int>> prompts{impl_->engine->require_tokenizer().encode(prompt)};
  return std::move(generate(prompts, options, on_step, on_read).front());
}

std::vector<float> Session::logits(std::span<const int> tokens, std::span<const std::uint8_t> attention_mask) {
  if (!attention_mask.empty() && attention_mask.size() != tokens.size()) {
    throw Error(ErrorKind::kInvalidArgument, "attention_mask: expected one value a token (" +
                                                 std::to_string(tokens.size()) + "), found " +
                                                 std::to_string(attention_mask.size()));
  }
  std::vector<int> seen;
  std::vector<std::size_t> places;  // of the seen tokens among all
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    if (!attention_mask.empty() && attention_mask[i] == 0) continue;
    seen.push_back(tokens[i]);
    places.push_back(i);
  }
  impl_->check_tokens(seen);

  const std::size_t vocabulary = index(impl_->engine->info.vocab_size);
  std::vector<float> result(tokens.size() * vocabulary);
  impl_->held[0].clear();
  std::size_t done = 0;
  const Feed feed{0, seen};
  impl_->packer.start({&feed, 1});
  while (!impl_->packer.done()) {
    const Batch batch = impl_->packer.next(impl_->held);
    impl_->backend->begin(batch);
    const Tensor hidden = impl_->engine->model.forward(*impl_->backend, batch, impl_->cache, impl_->activations);
    impl_->hold(batch);
    for (int first = 0; first < hidden.rows; first += impl_->plan.outputs) {
      const int count = std::min(impl_->plan.outputs, hidden.rows - first);
      const std::span<float> values = std::span(impl_->logits).first(index(count) * vocabulary);
      impl_->backend->copy_to_host(
          impl_->engine->model.logits(*impl_->backend, hidden.slice(first, count), impl_->results), values);
      for (std::size_t i = 0; i < index(count); ++i, ++done) {
        std::ranges::copy(values.subspan(i * vocabulary, vocabulary),
                          result.begin() + static_cast<std::ptrdiff_t>(places[done] * vocabulary));
      }
    }
  }
  return result;
}

void Session::reset() {
  for (auto& tokens : impl_->held) tokens.clear();
}

const GenerateStats& Session::last_stats() const { return impl_->stats; }

MemoryLedger Session::memory() const {
  MemoryLedger ledger = impl_->engine->model.ledger();
  ledger[MemoryClass::kKvCache] = impl_->cache.keys.size() + impl_->cache.values.size();
  ledger[MemoryClass::kWorkspace] = impl_->activations.size() + impl_->results.size() +
                                    impl_->logits.size() * sizeof(float) + impl_->backend->scratch_bytes();
  const Tokenizer* tokenizer = impl_->engine->tokenizer.get();
  ledger[MemoryClass::kTokenizer] = tokenizer == nullptr ? 0 : tokenizer->memory_bytes();
  ledger.process_resident = resident_memory();
  ledger.device_overhead = overhead_memory(impl_->engine->options.device);
  return ledger;
}

}  // namespace nibble
