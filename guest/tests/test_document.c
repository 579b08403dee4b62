#include "check.h"
#include "document.h"

#include <signal.h>
#include <sys/resource.h>

/* A document is read once and kept for PID 1's whole life: what it holds is no leak. */
const char *__asan_default_options(void);
const char *__asan_default_options(void)
{
	return "detect_leaks=0";
}

static struct machine machine;
static struct failure failure;

static int parse(const char *text)
{
	size_t length = strlen(text);
	char *copy = malloc(length + 1); /* kept: the document points into it */

	memcpy(copy, text, length + 1);
	return document_parse(copy, length, &machine, &failure);
}

static void refuse(const char *text)
{
	CHECK(parse(text) == -1);
	CHECK_TEXT(failure.stage, "document");
}

#define PROCESS "\"process\":{\"argv\":[\"/x\"],\"env\":[]}"
#define ROOT "\"root\":{\"layers\":[]}"

int main(void)
{
	CHECK(!parse("{\"version\":1,\"later\":{\"a\":[1.5]}," ROOT "," PROCESS "}"));
	CHECK_TEXT(machine.hostname, "localhost");
	CHECK_TEXT(machine.channel.name, "firekiln.agent");
	CHECK(machine.process.stop_signal == SIGTERM && !machine.process.open_stdin && !machine.has_scratch);
	CHECK_TEXT(machine.process.cwd, "/");

	CHECK(!parse("{\"version\":1,\"channel\":{\"type\":\"vsock\",\"port\":5},\"root\":{\"layers\":[{\"serial\":\"l0\"},"
		     "{\"index\":1}],\"scratch\":{\"serial\":\"s\"}},\"process\":{\"argv\":[\"/x\",\"a b\"],\"env\":[\"A=1\"],"
		     "\"rlimits\":[{\"name\":\"nofile\",\"soft\":5,\"hard\":null}]},\"network\":{\"interfaces\":[{\"name\":"
		     "\"eth0\",\"address\":\"10.0.0.2\",\"netmask\":\"255.0.0.0\",\"gateway\":null,\"mtu\":1400}]}}"));
	CHECK(machine.channel.name == NULL && machine.channel.port == 5);
	CHECK(machine.layer_count == 2 && machine.layers[1].index == 1 && machine.has_scratch);
	CHECK_TEXT(machine.process.argv[1], "a b");
	CHECK(machine.process.argv[2] == NULL);
	CHECK(machine.process.rlimits[0].resource == RLIMIT_NOFILE && machine.process.rlimits[0].soft == 5);
	CHECK(machine.process.rlimits[0].hard == RLIM_INFINITY);
	CHECK(machine.interface_count == 1 && machine.interfaces[0].mtu == 1400 && !machine.interfaces[0].gateway);

	CHECK(!parse("{\"version\":1,\"channel\":{\"type\":\"console\"},\"root\":{\"flat\":true}," PROCESS "}"));
	CHECK(machine.flat && machine.channel.console && machine.process.console && !machine.layer_count);

	refuse("");
	refuse("[]");
	refuse("{\"version\":2," ROOT "," PROCESS "}");
	refuse("{\"version\":1," PROCESS "}");
	refuse("{\"version\":1," ROOT "}");
	refuse("{\"version\":1," ROOT ",\"process\":{\"argv\":[],\"env\":[]}}");
	refuse("{\"version\":1," ROOT ",\"process\":{\"argv\":[1],\"env\":[]}}");
	refuse("{\"version\":1,\"root\":{\"layers\":[{}]}," PROCESS "}");
	refuse("{\"version\":1,\"channel\":{\"type\":\"pigeon\"}," ROOT "," PROCESS "}");
	return 0;
}
