/* PID 1's own remarks: to the kernel's log, and so to the console. */
#ifndef FIREKILN_LOG_H
#define FIREKILN_LOG_H

enum log_level { LOG_LEVEL_CRITICAL = 2, LOG_LEVEL_WARNING = 4 };

void log_open(void); /* once /dev is there; remarks before are lost */
void log_also(void (*listener)(const char *text)); /* who else is told */
__attribute__((format(printf, 2, 3))) void log_line(enum log_level level, const char *format, ...);

#endif
