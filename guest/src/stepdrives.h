/* What steps are put together from: file systems on drives, mounted once for all steps that want them. */
#ifndef FIREKILN_STEPDRIVES_H
#define FIREKILN_STEPDRIVES_H

#include <stdbool.h>

#include "failure.h"
#include "json.h"

#define STEP_DRIVES 256 /* numbers from 0; as many parts as a drive may have */

/* Where number `number` is mounted. */
void step_drive_path(int number, char path[16]);

/* Mount what `attach`, STEP's array, lists. 0, or -1 and `failure`. */
int step_drives_attach(const struct json *attach, struct failure *failure);

/* Let go of what was attached for one step only. */
void step_drives_detach(void);

/* Whether nothing holds the drive of that serial any more; loop devices of files on it are given up. Waits a little. */
bool step_drive_released(const char *serial);

#endif
