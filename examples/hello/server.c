/* A web server of one page that tells what it runs as: user, working directory, arguments, environment.
 *
 *   hello-server PORT           serve until SIGINT (STOPSIGNAL of the Dockerfile) or SIGTERM
 *   hello-server --check PORT   exit 0 if it answers (HEALTHCHECK of the Dockerfile)
 */
#include <arpa/inet.h>
#include <grp.h>
#include <pwd.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

extern char **environ;

static volatile sig_atomic_t stop_signal;

static void on_signal(int number) { stop_signal = number; }

static int page(char *text, size_t size, int argc, char **argv) {
    const struct passwd *user = getpwuid(getuid());
    const struct group *group = getgrgid(getgid());
    char folder[4096];
    size_t n = 0;
#define ADD(...) (n += (size_t)snprintf(text + n, n < size ? size - n : 0, __VA_ARGS__))
    const char *path = getenv("PAGE");
    FILE *file = path ? fopen(path, "r") : NULL;
    for (int c; file && (c = fgetc(file)) != EOF && n + 1 < size;) text[n++] = (char)c;
    if (file) fclose(file);
    ADD("<pre>\nuser: %s (%u)\ngroup: %s (%u)\n", user ? user->pw_name : "?", getuid(), group ? group->gr_name : "?", getgid());
    ADD("folder: %s\npid: %d\narguments:", getcwd(folder, sizeof folder) ? folder : "?", getpid());
    for (int i = 0; i < argc; i++) ADD(" [%s]", argv[i]);
    ADD("\n");
    for (char **entry = environ; *entry; entry++) ADD("env: %s\n", *entry);
    ADD("</pre>\n");
#undef ADD
    return (int)(n < size ? n : size - 1);
}

static int check(int port) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int s = socket(AF_INET, SOCK_STREAM, 0);
    char answer[16] = "";
    if (s < 0 || connect(s, (struct sockaddr *)&to, sizeof to) < 0) return 1;
    if (write(s, "GET / HTTP/1.0\r\n\r\n", 18) != 18 || read(s, answer, sizeof answer - 1) < 12) return 1;
    return strncmp(answer, "HTTP/1.0 200", 12) != 0;
}

static void answer(int client, int argc, char **argv) {
    char request[4096], body[65536], head[128];
    if (read(client, request, sizeof request) <= 0) return;
    int length = page(body, sizeof body, argc, argv);
    int n = snprintf(head, sizeof head, "HTTP/1.0 200 OK\r\nContent-Type: text/html\r\nContent-Length: %d\r\n\r\n", length);
    if (write(client, head, (size_t)n) == n) (void)!write(client, body, (size_t)length);
}

int main(int argc, char **argv) {
    if (argc == 3 && !strcmp(argv[1], "--check")) return check(atoi(argv[2]));
    if (argc != 2) return fprintf(stderr, "usage: hello-server PORT | --check PORT\n"), 2;
    struct sigaction action = {.sa_handler = on_signal};
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(argv[1]))};
    int one = 1, s = socket(AF_INET, SOCK_STREAM, 0);
    setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(s, (struct sockaddr *)&at, sizeof at) < 0 || listen(s, 16) < 0) return perror("hello-server"), 1;
    printf("hello-server: serving on port %s\n", argv[1]);
    fflush(stdout);
    while (!stop_signal) {
        int client = accept(s, NULL, NULL);
        if (client < 0) continue;
        answer(client, argc, argv);
        close(client);
    }
    printf("hello-server: ended by %s\n", strsignal(stop_signal));
    return 0;
}
