// MAMMOTH_API marks what a shared libmammoth_runtime shows to its users; all else stays inside.
#pragma once

#define MAMMOTH_API __attribute__((visibility("default")))
