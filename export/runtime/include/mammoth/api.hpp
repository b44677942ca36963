// MAMMOTH_API marks the symbols that a shared libmammoth_runtime exports; all others are hidden.
#pragma once

#define MAMMOTH_API __attribute__((visibility("default")))
