#include <stdio.h>
#include <string.h>

#include "check.h"
#include "rootdevice.h"
#include "verity.h"

#define ROOT "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"

static void refuses(const char *text)
{
	struct verity verity;
	struct failure failure;

	CHECK(verity_parse(text, &verity, &failure) == -1);
	CHECK(strstr(failure.message, "BLOCKS:SALT:ROOT"));
}

int main(int argc, char **argv)
{
	struct verity verity;
	struct failure failure;
	char path[256];
	FILE *file;

	CHECK(!verity_parse("4711:ab01:" ROOT, &verity, &failure));
	CHECK(verity.blocks == 4711);
	CHECK_TEXT(verity.salt, "ab01");
	CHECK_TEXT(verity.root, ROOT);
	refuses("");
	refuses("0:ab:" ROOT);
	refuses("1:abc:" ROOT);
	refuses("1:ab:" ROOT "0");
	refuses("1:ab:" ROOT " 1 ignore_corruption");
	refuses("1:ab:0011");
	refuses("1:zz:" ROOT);
	refuses("-1:ab:" ROOT);
	refuses("9999999999999999999:ab:" ROOT);

	CHECK(argc > 1);
	snprintf(path, sizeof path, "%s/ext4", argv[1]);
	file = fopen(path, "w");
	CHECK(file && !fseek(file, 1024 + 56, SEEK_SET) && fwrite("\x53\xef", 2, 1, file));
	CHECK(!fseek(file, 1024 + 104, SEEK_SET) && fwrite("0123456789abcdef", 16, 1, file) && !fclose(file));
	CHECK(root_has_uuid(path, "30313233-3435-3637-3839-616263646566"));
	CHECK(root_has_uuid(path, "30313233-3435-3637-3839-616263646566") && !root_has_uuid(path, "30313233"));
	CHECK(!root_has_uuid(argv[1], "30313233-3435-3637-3839-616263646566"));
	return 0;
}
