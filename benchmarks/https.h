/* One HTTPS connection to a loopback address: one request at a time, never blocking once open. */
#ifndef HTTPS_H
#define HTTPS_H

#include <openssl/ssl.h>
#include <stdbool.h>
#include <stddef.h>

#define ANSWER_BYTES 65536
#define HANDSHAKE_SECONDS 30

enum progress { WAITING, ANSWERED, CLOSED };

struct text {
    char *bytes;
    size_t length;
};

struct connection {
    SSL *ssl;
    int fd, epoll;
    bool closed, wants_write;
    const struct text *unsent; /* the request until it is sent */
    size_t received;
    char answer[ANSWER_BYTES + 1]; /* ends in '\0' */
    /* For the caller. */
    bool busy;
    double since;
};

_Noreturn void fail(const char *format, ...) __attribute__((format(printf, 1, 2)));

SSL_CTX *https_context(const char *ca, const char *certificate, const char *key);

/* Renders a POST of a line of JSON, with its line end. */
struct text https_post(const char *host, int port, const char *path, const char *line);

/* Connects and watches the connection, with its address as the data of the event. */
void https_open(struct connection *connection, SSL_CTX *context, int epoll, const char *host,
                int port);

/* Each continues as far as it can without blocking. */
enum progress https_send(struct connection *connection, const struct text *request);
enum progress https_continue(struct connection *connection);

#endif
