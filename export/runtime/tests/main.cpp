#include "check.hpp"

int main() {
    return mammoth::test::run_all();
}
