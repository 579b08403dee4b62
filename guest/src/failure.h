/* Why something could not be done: a value that is filled where it happens and reported where it ends. */
#ifndef FIREKILN_FAILURE_H
#define FIREKILN_FAILURE_H

#define STATUS_MACHINE 125 /* Docker's statuses: the machine's own fault, */
#define STATUS_NOT_EXECUTABLE 126
#define STATUS_NOT_FOUND 127

struct failure {
	char stage[16]; /* the word of PROTOCOL.md's FAILED frame */
	char message[1024];
	int error; /* an errno, or 0 */
	int status;
};

/* Fill `failure` and return -1. With `error` not 0 its text is added behind a colon. */
__attribute__((format(printf, 4, 5))) int fail(struct failure *failure, const char *stage, int error,
					       const char *format, ...);

#endif
