// refused: a background task's value is kept by its handle: return it by value
// Floor 9, room tests.
#include <penstock/penstock.hpp>
penstock::task<int&> form(int& value) { co_return value; }
void start(penstock::runtime& rt, int& value) { rt.tasks().spawn("reference", form(value)); }
