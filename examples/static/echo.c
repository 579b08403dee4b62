/* echo PORT: send each client back what it sends, one after the other, until SIGTERM. */
#include <arpa/inet.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

static void end(int number) {
    (void)number;
    _exit(0);
}

int main(int argc, char **argv) {
    if (argc != 2) return fprintf(stderr, "usage: echo PORT\n"), 2;
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(argv[1]))};
    int one = 1, listener = socket(AF_INET, SOCK_STREAM, 0);
    signal(SIGTERM, end);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listener, (struct sockaddr *)&at, sizeof at) < 0 || listen(listener, 16) < 0) return perror("echo"), 1;
    printf("echo: port %s, as %u:%u\n", argv[1], getuid(), getgid());
    fflush(stdout);
    for (;;) {
        char bytes[4096];
        int client = accept(listener, NULL, NULL);
        if (client < 0) continue;
        for (ssize_t n; (n = read(client, bytes, sizeof bytes)) > 0;)
            if (write(client, bytes, (size_t)n) != n) break;
        close(client);
    }
}
