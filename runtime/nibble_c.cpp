// The C interface: handles around the C++ one, exceptions turned into a status and a sentence.
#include "nibble/nibble_c.h"

#include <algorithm>
#include <exception>
#include <new>
#include <string>
#include <string_view>

#include "nibble/nibble.h"

struct nibble_engine {
  nibble::Engine engine;
};

struct nibble_session {
  nibble::Engine engine;  ///< for the tokenizer and the end tokens of its checkpoint
  nibble::Session session;
};

namespace {

std::string& last_error() {
  thread_local std::string sentence;
  return sentence;
}

/// Leaves no sentence where there is no memory for it: the status still says what happened.
void set_last_error(const char* sentence) noexcept {
  try {
    last_error() = sentence;
  } catch (const std::bad_alloc&) {
    last_error().clear();
  }
}

nibble_status status_of(nibble::ErrorKind kind) {
  switch (kind) {
    case nibble::ErrorKind::kInvalidArgument:
      return NIBBLE_INVALID_ARGUMENT;
    case nibble::ErrorKind::kNotFound:
      return NIBBLE_NOT_FOUND;
    case nibble::ErrorKind::kIo:
      return NIBBLE_IO;
    case nibble::ErrorKind::kFormat:
      return NIBBLE_FORMAT;
    case nibble::ErrorKind::kUnsupported:
      return NIBBLE_UNSUPPORTED;
    case nibble::ErrorKind::kOutOfMemory:
      return NIBBLE_OUT_OF_MEMORY;
  }
  return NIBBLE_INTERNAL;
}

/// Runs f and turns what it throws into a status, what a callback written in C++ throws included: C functions let
/// nothing out. Ending the thread in a callback (pthread_exit) unwinds too and could not go on from here; the header
/// forbids it.
template <class F>
nibble_status guarded(F&& f) noexcept {
  try {
    f();
    last_error().clear();
    return NIBBLE_OK;
  } catch (const nibble::Error& error) {
    set_last_error(error.what());
    return status_of(error.kind());
  } catch (const std::bad_alloc&) {
    set_last_error("out of memory");
    return NIBBLE_OUT_OF_MEMORY;
  } catch (const std::exception& error) {
    set_last_error(error.what());
    return NIBBLE_INTERNAL;
  } catch (...) {
    set_last_error("a callback threw something that is not a std::exception");
    return NIBBLE_INTERNAL;
  }
}

[[noreturn]] void refuse(const std::string& sentence) {
  throw nibble::Error(nibble::ErrorKind::kInvalidArgument, sentence);
}

template <class T>
T& required(T* pointer, const char* name) {
  if (pointer == nullptr) refuse(std::string(name) + ": expected a pointer, found NULL");
  return *pointer;
}

std::string text_or_empty(const char* text) { return text == nullptr ? std::string() : std::string(text); }

/// The parsed value of a name, or `absent` for NULL and "".
template <class T, class Parse>
T parsed(const char* text, const char* name, Parse&& parse, T absent) {
  const std::string word = text_or_empty(text);
  if (word.empty()) return absent;
  const auto value = parse(word);
  if (!value) refuse(std::string(name) + ": '" + word + "' is not known");
  return *value;
}

nibble::LoadOptions load_options(const nibble_load_options* options) {
  nibble::LoadOptions result;
  if (options == nullptr) return result;
  using std::optional;
  result.scheme = parsed(options->scheme, "scheme", nibble::parse_scheme, optional<nibble::Scheme>());
  result.compute_dtype =
      parsed(options->compute_dtype, "compute_dtype", nibble::parse_compute_dtype, optional<nibble::DType>());
  result.embedding =
      parsed(options->embedding, "embedding", nibble::parse_embedding, optional<nibble::EmbeddingStorage>());
  result.device = parsed(options->device, "device", nibble::parse_device, nibble::Device::kCpu);
  result.threads = options->threads;
  if (options->blocksize != 0) result.blocksize = options->blocksize;
  result.cpu_target = text_or_empty(options->cpu_target);
  result.pin_threads = options->pin_threads != 0;
  result.int8_activations = options->int8_activations != 0;
  result.seed = options->seed;
  return result;
}

}  // namespace

extern "C" {

const char* nibble_last_error(void) { return last_error().c_str(); }

const char* nibble_version(void) { return nibble::version().data(); }

nibble_status nibble_engine_open(const char* model, const nibble_load_options* options, nibble_engine** engine) {
  return guarded([&] {
    required(engine, "engine") = nullptr;
    required(model, "model");
    *engine = new nibble_engine{nibble::Engine::open(model, load_options(options))};
  });
}

void nibble_engine_free(nibble_engine* engine) { delete engine; }

nibble_status nibble_default_options(const nibble_engine* engine, nibble_generate_options* options) {
  return guarded([&] {
    const nibble::GenerateOptions own = required(engine, "engine").engine.default_options();
    required(options, "options") = {.max_tokens = own.max_tokens,
                                    .temperature = own.temperature,
                                    .top_k = own.top_k,
                                    .top_p = own.top_p,
                                    .min_p = own.min_p,
                                    .repetition_penalty = own.repetition_penalty,
                                    .seed = own.seed,
                                    .ignore_eos = own.ignore_eos ? 1 : 0};
  });
}

nibble_status nibble_tokenize(const nibble_engine* engine, const char* text, int32_t* tokens, size_t capacity,
                              size_t* count) {
  return guarded([&] {
    required(text, "text");
    const std::vector<int> ids = required(engine, "engine").engine.tokenize(text);
    required(count, "count") = ids.size();
    if (capacity > 0) std::copy_n(ids.begin(), std::min(capacity, ids.size()), &required(tokens, "tokens"));
  });
}

nibble_status nibble_session_open(const nibble_engine* engine, int context, nibble_session** session) {
  return guarded([&] {
    required(session, "session") = nullptr;
    const nibble::Engine& shared = required(engine, "engine").engine;
    *session = new nibble_session{shared, shared.session({.context = context})};
  });
}

void nibble_session_free(nibble_session* session) { delete session; }

nibble_status nibble_session_reset(nibble_session* session) {
  return guarded([&] { required(session, "session").session.reset(); });
}

nibble_status nibble_generate(nibble_session* session, const char* prompt, const nibble_generate_options* options,
                              nibble_on_text on_text, void* user) {
  return guarded([&] {
    required(prompt, "prompt");
    nibble_session& own = required(session, "session");
    nibble::GenerateOptions generate = own.engine.default_options();
    if (options != nullptr) {
      generate.max_tokens = options->max_tokens;
      generate.temperature = options->temperature;
      generate.top_k = options->top_k;
      generate.top_p = options->top_p;
      generate.min_p = options->min_p;
      generate.repetition_penalty = options->repetition_penalty;
      generate.seed = options->seed;
      generate.ignore_eos = options->ignore_eos != 0;
    }
    const auto tell = [&](std::string_view text) {
      return on_text == nullptr || on_text(text.data(), text.size(), user) != 0;
    };
    own.session.generate(
        prompt, generate, [&](const nibble::Step& step) { return tell(step.text); },
        [&](int, int) { return tell(""); });
  });
}

}  // extern "C"
