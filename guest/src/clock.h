/* Time: deadlines on the monotonic clock, and the wall clock that the host sets. */
#ifndef FIREKILN_CLOCK_H
#define FIREKILN_CLOCK_H

#include <stdbool.h>

long long clock_ms(void); /* since the kernel started */
void clock_sleep_ms(long milliseconds);
void clock_set(long long realtime_ns);

long long clock_realtime_ns(void);

/* Whether the kernel found a timer. One that has none goes on as far as nobody waits for a time. */
bool clock_has_timer(void);

#endif
