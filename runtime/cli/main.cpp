#include "runtime/cli/command_line.h"

int main(int argc, char** argv) { return nibble::run_program({argv + 1, argv + argc}); }
