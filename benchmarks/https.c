#define _GNU_SOURCE
#include "https.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/time.h>
#include <unistd.h>

#define LENGTH_FIELD "\r\ncontent-length:"

void fail(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fputs("load_client: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    exit(1);
}

static _Noreturn void fail_tls(const char *what)
{
    unsigned long error = ERR_get_error();
    fail("%s: %s", what, error ? ERR_reason_error_string(error) : "no answer");
}

SSL_CTX *https_context(const char *ca, const char *certificate, const char *key)
{
    SSL_CTX *context = SSL_CTX_new(TLS_client_method());
    if (context == NULL || SSL_CTX_load_verify_locations(context, ca, NULL) != 1 ||
        SSL_CTX_use_certificate_chain_file(context, certificate) != 1 ||
        SSL_CTX_use_PrivateKey_file(context, key, SSL_FILETYPE_PEM) != 1)
        fail_tls("TLS files");
    SSL_CTX_set_verify(context, SSL_VERIFY_PEER, NULL);
    return context;
}

struct text https_post(const char *host, int port, const char *path, const char *line)
{
    struct text request;
    int length = asprintf(&request.bytes,
                          "POST %s HTTP/1.1\r\nHost: %s:%d\r\nUser-Agent: load_client\r\n"
                          "Content-Length: %zu\r\nAccept: application/json, */*\r\n"
                          "Content-Type: application/json\r\n\r\n%s\n",
                          path, host, port, strlen(line) + 1, line);
    if (length < 0)
        fail("out of memory");
    request.length = (size_t)length;
    return request;
}

static int connect_loopback(const char *host, int port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    struct timeval limit = {.tv_sec = HANDSHAKE_SECONDS};
    int on = 1, fd;
    if (inet_pton(AF_INET, host, &address.sin_addr) != 1 ||
        ntohl(address.sin_addr.s_addr) >> 24 != 127)
        fail("%s is not in 127.0.0.0/8", host);
    fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
    if (connect(fd, (struct sockaddr *)&address, sizeof address) != 0)
        fail("%s:%d: %s", host, port, strerror(errno));
    return fd;
}

void https_open(struct connection *connection, SSL_CTX *context, int epoll, const char *host,
                int port)
{
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = connection};
    connection->epoll = epoll;
    connection->fd = connect_loopback(host, port);
    connection->ssl = SSL_new(context);
    if (connection->ssl == NULL || SSL_set_fd(connection->ssl, connection->fd) != 1 ||
        X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(connection->ssl), host) != 1 ||
        SSL_connect(connection->ssl) != 1)
        fail_tls("handshake");
    fcntl(connection->fd, F_SETFL, fcntl(connection->fd, F_GETFL) | O_NONBLOCK);
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, connection->fd, &event) != 0)
        fail("epoll: %s", strerror(errno));
}

static void watch(struct connection *connection, bool writable)
{
    struct epoll_event event = {.events = writable ? EPOLLIN | EPOLLOUT : EPOLLIN,
                                .data.ptr = connection};
    if (connection->wants_write != writable)
        epoll_ctl(connection->epoll, EPOLL_CTL_MOD, connection->fd, &event);
    connection->wants_write = writable;
}

static enum progress wait_or_close(struct connection *connection, int result)
{
    int error = SSL_get_error(connection->ssl, result);
    if (error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE) {
        watch(connection, error == SSL_ERROR_WANT_WRITE || connection->unsent != NULL);
        return WAITING;
    }
    close(connection->fd);
    connection->closed = true;
    return CLOSED;
}

enum progress https_send(struct connection *connection, const struct text *request)
{
    connection->unsent = request;
    connection->received = 0;
    connection->answer[0] = '\0';
    ERR_clear_error();
    int result = SSL_write(connection->ssl, request->bytes, (int)request->length);
    if (result <= 0)
        return wait_or_close(connection, result);
    connection->unsent = NULL;
    watch(connection, false);
    return WAITING;
}

static bool is_whole(struct connection *connection)
{
    const char *end = strstr(connection->answer, "\r\n\r\n");
    const char *field = strcasestr(connection->answer, LENGTH_FIELD);
    if (end == NULL)
        return false;
    if (field == NULL || field > end)
        fail("an answer has no Content-Length: %.400s", connection->answer);
    size_t head = (size_t)(end - connection->answer) + strlen("\r\n\r\n");
    return connection->received >= head + strtoul(field + strlen(LENGTH_FIELD), NULL, 10);
}

enum progress https_continue(struct connection *connection)
{
    if (connection->unsent != NULL && https_send(connection, connection->unsent) == CLOSED)
        return CLOSED;
    for (;;) {
        size_t room = ANSWER_BYTES - connection->received;
        if (room == 0)
            fail("an answer is longer than %d bytes", ANSWER_BYTES);
        ERR_clear_error();
        int result = SSL_read(connection->ssl, connection->answer + connection->received, (int)room);
        if (result <= 0)
            return wait_or_close(connection, result);
        connection->received += (size_t)result;
        connection->answer[connection->received] = '\0';
        if (is_whole(connection))
            return ANSWERED;
    }
}
