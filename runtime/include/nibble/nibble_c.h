/* nibble for C and what calls C. Handles are opaque; a function that can fail returns a status, and nibble_last_error()
 * then has the sentence. Strings are UTF-8. An engine may be shared by threads, a session not. */
#ifndef NIBBLE_C_H
#define NIBBLE_C_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct nibble_engine nibble_engine;
typedef struct nibble_session nibble_session;

typedef enum {
  NIBBLE_OK = 0,
  NIBBLE_INVALID_ARGUMENT,
  NIBBLE_NOT_FOUND,
  NIBBLE_IO,
  NIBBLE_FORMAT,
  NIBBLE_UNSUPPORTED,
  NIBBLE_OUT_OF_MEMORY,
  NIBBLE_INTERNAL
} nibble_status;

/* As LoadOptions of engine.h. Zeros (NULL, "" and 0) stand for the defaults, as an absent optional does there. */
typedef struct {
  const char* scheme;        /* "none", "int8", "int8-decomp", "fp4", "nf4", "fp4-dq", "nf4-dq", "int4", "int4-asym" */
  const char* compute_dtype; /* "fp32", "fp16", "bf16" */
  const char* device;        /* "cpu", "cuda"; NULL: "cpu" */
  const char* embedding;     /* "compute", "int8"; NULL: as the checkpoint stores it */
  int threads;               /* 0: one a core */
  int blocksize;             /* of 4-bit schemes, 32 to 4096; 0: as stored, or if made here 64, int4 128 */
  const char* cpu_target;    /* "portable", "avx2", "avx512", "avx512-vnni", "avx512-bf16", "amx"; NULL: the fastest */
  int pin_threads;           /* CPU; other than 0: each thread but the caller's on a core of its own */
  int int8_activations;      /* CPU, scheme int8; other than 0: x rounded to 8 bits a row */
  uint64_t seed;             /* for synthetic models */
} nibble_load_options;

typedef struct {
  int max_tokens;
  float temperature; /* 0: greedy; else 1e-6 to 1e6 */
  int top_k;
  float top_p, min_p;
  float repetition_penalty; /* 1: off; 1e-6 to 1e6 */
  uint64_t seed;            /* when the same one gives the same text: see nibble_generate */
  int ignore_eos;
} nibble_generate_options;

/* Receives whole characters, not NUL-terminated, and none while a prompt is read, on nibble_generate's thread; return 0
 * to stop. What one written in C++ throws ends nibble_generate with a status. It may not use the session, longjmp or
 * end its thread. */
typedef int (*nibble_on_text)(const char* text, size_t bytes, void* user);

/* The sentence of the calling thread's last failure, "" where memory lacked for it; valid until its next call. */
const char* nibble_last_error(void);
const char* nibble_version(void);

nibble_status nibble_engine_open(const char* model, const nibble_load_options* options, nibble_engine** engine);
void nibble_engine_free(nibble_engine* engine);
/* The checkpoint's own generation settings. */
nibble_status nibble_default_options(const nibble_engine* engine, nibble_generate_options* options);
/* Writes up to `capacity` ids and in *count how many there are. */
nibble_status nibble_tokenize(const nibble_engine* engine, const char* text, int32_t* tokens, size_t capacity,
                              size_t* count);

/* `context` 0: as many tokens as the model was made for. The session keeps its engine alive. */
nibble_status nibble_session_open(const nibble_engine* engine, int context, nibble_session** session);
void nibble_session_free(nibble_session* session);
/* Forgets what the session holds, so that the next call computes what it would in a new one. */
nibble_status nibble_session_reset(nibble_session* session);
/* A session that holds nothing, new or reset, gives the same text for the same prompt, options and seed. Else what the
 * prompt shares with the beginning of what it holds is not computed again, and now and then a token may differ. */
nibble_status nibble_generate(nibble_session* session, const char* prompt, const nibble_generate_options* options,
                              nibble_on_text on_text, void* user);

#ifdef __cplusplus
}
#endif
#endif /* NIBBLE_C_H */
