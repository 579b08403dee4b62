/* Time: deadlines on the monotonic clock, and the wall clock that the host sets. */
#ifndef FIREKILN_CLOCK_H
#define FIREKILN_CLOCK_H

long long clock_ms(void); /* since the kernel started */
void clock_sleep_ms(long milliseconds);
void clock_set(long long realtime_ns);

long long clock_realtime_ns(void);

#endif
