#include "restart.h"

/* Moby's restartmanager. */
#define FIRST_MS 100
#define LONGEST_MS 60000
#define LONG_RUN_MS 10000

void restart_go_on(struct restart_config *config, unsigned long count)
{
	if (config->policy != RESTART_ON_FAILURE || !config->retries)
		return;
	if (count >= config->retries)
		config->policy = RESTART_NO; /* 0 retries would be any number */
	else
		config->retries -= count;
}

long long restart_after(struct restart *restart, const struct restart_config *config, bool success, long long ran_ms)
{
	if (config->policy == RESTART_NO)
		return -1;
	if (config->policy == RESTART_ON_FAILURE && (success || (config->retries && restart->count >= config->retries)))
		return -1;
	if (!restart->delay_ms || ran_ms >= LONG_RUN_MS)
		restart->delay_ms = FIRST_MS;
	else if (restart->delay_ms * 2 < LONGEST_MS)
		restart->delay_ms *= 2;
	else
		restart->delay_ms = LONGEST_MS;
	restart->count++;
	return restart->delay_ms;
}
