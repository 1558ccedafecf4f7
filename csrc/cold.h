/* For mypyc's code: the paths to a traceback are seldom run.
 *
 * Its compiler marks few branches as unlikely, so the compiler of C lays the code of exceptions between that of calls
 * that succeed.  A function that is declared as cold makes all code that only leads there cold, too.
 */
#pragma once

struct _object;
void CPy_AddTraceback(const char *, const char *, int, struct _object *) __attribute__((cold));
