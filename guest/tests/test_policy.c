#include "check.h"
#include "foreign.h"
#include "health.h"
#include "restart.h"

#include <sys/wait.h>

static void a_process_starts_again_as_its_policy_says(void)
{
	const struct restart_config never = { RESTART_NO, 0 }, thrice = { RESTART_ON_FAILURE, 3 },
				    always = { RESTART_ALWAYS, 0 };
	struct restart restart = { 0 };

	CHECK(restart_after(&restart, &never, false, 0) == -1);
	CHECK(restart_after(&restart, &thrice, true, 0) == -1);
	CHECK(restart_after(&restart, &thrice, false, 0) == 100);
	CHECK(restart_after(&restart, &thrice, false, 0) == 200);
	CHECK(restart_after(&restart, &thrice, false, 10000) == 100); /* it ran for long */
	CHECK(restart_after(&restart, &thrice, false, 0) == -1 && restart.count == 3);
	restart = (struct restart){ 0 };
	for (int i = 0; i < 50; i++)
		CHECK(restart_after(&restart, &always, true, 0) <= 60000);
	CHECK(restart.delay_ms == 60000 && restart.count == 50);
}

static void what_earlier_boots_have_used_is_not_to_be_had_again(void)
{
	struct restart_config thrice = { RESTART_ON_FAILURE, 3 }, any = { RESTART_ON_FAILURE, 0 }, always = { RESTART_ALWAYS, 0 };
	struct restart restart = { 0 };

	restart_go_on(&any, 7);
	restart_go_on(&always, 7);
	CHECK(any.policy == RESTART_ON_FAILURE && any.retries == 0 && always.policy == RESTART_ALWAYS);
	restart_go_on(&thrice, 2);
	CHECK(restart_after(&restart, &thrice, false, 0) == 100);
	CHECK(restart_after(&restart, &thrice, false, 0) == -1);
	thrice = (struct restart_config){ RESTART_ON_FAILURE, 3 };
	restart_go_on(&thrice, 3);
	restart = (struct restart){ 0 };
	CHECK(restart_after(&restart, &thrice, false, 0) == -1);
}

static void failures_in_a_row_make_it_unhealthy_and_one_success_healthy(void)
{
	const struct health_config config = { .retries = 2, .start_period_ms = 1000 };
	static struct health health;

	health = (struct health){ .config = &config };
	health_count(&health, false, 999); /* within the start period */
	CHECK(health.status == HEALTH_STARTING && health.streak == 0);
	health_count(&health, false, 1000);
	CHECK(health.status == HEALTH_STARTING && health.streak == 1);
	health_count(&health, false, 1001);
	CHECK(health.status == HEALTH_UNHEALTHY && health.streak == 2);
	health_count(&health, true, 1002);
	CHECK(health.status == HEALTH_HEALTHY && health.streak == 0);
	health_count(&health, false, 500); /* the start period is over with the first success */
	CHECK(health.status == HEALTH_HEALTHY && health.streak == 1);
}

static void an_inits_word_for_an_end_is_a_status(void)
{
	CHECK(WIFEXITED(foreign_status("0")) && WEXITSTATUS(foreign_status("0")) == 0);
	CHECK(WEXITSTATUS(foreign_status("143")) == 143);
	CHECK(WIFSIGNALED(foreign_status("TERM")) && WTERMSIG(foreign_status("TERM")) == SIGTERM);
	CHECK(WTERMSIG(foreign_status("SIGKILL")) == SIGKILL && WTERMSIG(foreign_status("SYS")) == SIGSYS);
	CHECK(WEXITSTATUS(foreign_status("nonsense")) == 255 && WEXITSTATUS(foreign_status("")) == 255);
	CHECK(WEXITSTATUS(foreign_status("HUP INT")) == 255);
}

int main(void)
{
	a_process_starts_again_as_its_policy_says();
	what_earlier_boots_have_used_is_not_to_be_had_again();
	failures_in_a_row_make_it_unhealthy_and_one_success_healthy();
	an_inits_word_for_an_end_is_a_status();
	return 0;
}
