// An application that uses nibble as a library: everything an embedder needs. Built against the installed package.
#include <nibble/nibble.h>

#include <iostream>

int main(int argc, char** argv) {
  try {
    const nibble::Engine engine = nibble::Engine::open(argc > 1 ? argv[1] : "models/bundled");
    nibble::Session session = engine.session({.context = 256});
    nibble::GenerateOptions options = engine.default_options();
    options.max_tokens = 32;
    session.generate("The old man looked at the sea and", options, [](const nibble::Step& step) {
      std::cout << step.text << std::flush;
      return true;
    });
    std::cout << '\n';
  } catch (const nibble::Error& error) {
    std::cerr << error.what() << '\n';
    return 1;
  }
}
