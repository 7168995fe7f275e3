// Everything nibble offers a C++ application. Start with engine.h, then session.h.
#pragma once

#include "nibble/engine.h"
#include "nibble/error.h"
#include "nibble/inspect.h"
#include "nibble/log.h"
#include "nibble/memory.h"
#include "nibble/progress.h"
#include "nibble/session.h"
#include "nibble/types.h"
