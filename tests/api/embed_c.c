/* The same in C. */
#include <nibble/nibble_c.h>
#include <stdio.h>

static int print(const char* text, size_t bytes, void* user) {
  fwrite(text, 1, bytes, (FILE*)user);
  return 1;
}

static int fail(void) {
  fprintf(stderr, "%s\n", nibble_last_error());
  return 1;
}

int main(int argc, char** argv) {
  nibble_engine* engine = NULL;
  nibble_session* session = NULL;
  nibble_generate_options options;
  if (nibble_engine_open(argc > 1 ? argv[1] : "models/bundled", NULL, &engine) != NIBBLE_OK) return fail();
  if (nibble_default_options(engine, &options) != NIBBLE_OK) return fail();
  options.max_tokens = 32;
  if (nibble_session_open(engine, 256, &session) != NIBBLE_OK) return fail();
  if (nibble_generate(session, "The old man looked at the sea and", &options, print, stdout) != NIBBLE_OK) {
    return fail();
  }
  printf("\n");
  nibble_session_free(session);
  nibble_engine_free(engine);
  return 0;
}
