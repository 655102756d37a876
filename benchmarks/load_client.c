/*
 * A load client for HTTPS with a client certificate: one thread, keep-alive connections.
 *
 * Closed loop: every connection sends its next request as soon as it has its answer; latency is
 * the time from sending to the complete answer. Open loop (-r RATE): request k is due k / RATE
 * seconds after the start, and latency is the time from then, however late it could be sent.
 *
 * The bodies are the lines of a file, each sent with its line end; the next free connection takes
 * the next line. With -1 no line is sent twice: the run ends when they are used up.
 *
 * Handshakes and the first request of each connection come before the clock starts. No request is
 * sent after SECONDS; those in progress have 10 more seconds to be answered, then they count as
 * errors. It connects only to 127.0.0.0/8. Prints one line of JSON; exit code 1 if the run was not
 * possible.
 */
#define _GNU_SOURCE
#include "https.h"

#include <errno.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#define EVENTS 64
#define GRACE_SECONDS 10
#define MAX_CONNECTIONS 4096
#define MAX_SECONDS 600

static struct {
    const char *host, *path, *expected;
    int port, connection_count, epoll, timer;
    double seconds, rate, start, last_answer, cpu_before;
    bool once;
    struct text *requests;
    size_t request_count, taken, issued, done, errors;
    struct connection *connections, **idle;
    int idle_first, idle_count, open_count; /* idle is a ring */
    double *latencies;
    size_t latency_capacity;
} run;

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static double cpu_seconds(void)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
           (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

static void *grow(void *array, size_t count, size_t *capacity, size_t size)
{
    if (count < *capacity)
        return array;
    *capacity = *capacity ? 2 * *capacity : 4096;
    array = reallocarray(array, *capacity, size);
    if (array == NULL)
        fail("out of memory");
    return array;
}

static void load_requests(const char *name)
{
    FILE *file = fopen(name, "r");
    char *line = NULL;
    size_t line_capacity = 0, capacity = 0;
    ssize_t length;
    if (file == NULL)
        fail("%s: %s", name, strerror(errno));
    while ((length = getline(&line, &line_capacity, file)) > 0) {
        if (line[length - 1] == '\n')
            line[length - 1] = '\0';
        run.requests = grow(run.requests, run.request_count, &capacity, sizeof *run.requests);
        run.requests[run.request_count++] = https_post(run.host, run.port, run.path, line);
    }
    free(line);
    fclose(file);
    if (run.request_count == 0)
        fail("%s has no lines", name);
}

static const struct text *next_request(void)
{
    return &run.requests[run.taken++ % run.request_count];
}

static bool is_expected(const struct connection *connection)
{
    return strncmp(connection->answer, "HTTP/1.1 201 ", 13) == 0 &&
           strstr(connection->answer, run.expected) != NULL;
}

static void count_error(const char *what, const char *answer)
{
    if (run.errors++ == 0)
        fprintf(stderr, "load_client: first error: %s: %.400s\n", what, answer);
}

static void put_idle(struct connection *connection)
{
    run.idle[(run.idle_first + run.idle_count++) % run.connection_count] = connection;
}

/* The connection that has been idle for the longest, so that the load is spread over all of them. */
static struct connection *take_idle(void)
{
    struct connection *connection = run.idle[run.idle_first];
    run.idle_first = (run.idle_first + 1) % run.connection_count;
    run.idle_count--;
    return connection;
}

static void finish_request(struct connection *connection)
{
    run.last_answer = now();
    connection->busy = false;
    put_idle(connection);
    if (is_expected(connection)) {
        size_t count = run.done - run.errors;
        run.latencies = grow(run.latencies, count, &run.latency_capacity, sizeof *run.latencies);
        run.latencies[count] = run.last_answer - connection->since;
    } else {
        count_error("not the answer that is expected", connection->answer);
    }
    run.done++;
}

static void handle_progress(struct connection *connection, enum progress progress)
{
    if (progress == ANSWERED && connection->busy) {
        finish_request(connection);
    } else if (progress == CLOSED) {
        run.open_count--;
        if (connection->busy) {
            count_error("a connection was closed without an answer", connection->answer);
            run.done++;
        }
    }
}

static double due(size_t index)
{
    return run.start + (double)index / run.rate;
}

static bool is_exhausted(double time)
{
    if (run.once && run.taken >= run.request_count)
        return true;
    return (run.rate > 0 ? due(run.issued) : time) >= run.start + run.seconds;
}

static void set_timer(double at)
{
    struct itimerspec when = {.it_value.tv_sec = (time_t)at};
    when.it_value.tv_nsec = (long)((at - (double)when.it_value.tv_sec) * 1e9);
    timerfd_settime(run.timer, TFD_TIMER_ABSTIME, &when, NULL);
}

static void issue_requests(void)
{
    while (run.idle_count > 0) {
        double time = now();
        if (is_exhausted(time))
            return;
        if (run.rate > 0 && due(run.issued) > time) {
            set_timer(due(run.issued));
            return;
        }
        struct connection *connection = take_idle();
        if (connection->closed)
            continue;
        connection->busy = true;
        connection->since = run.rate > 0 ? due(run.issued) : time;
        run.issued++;
        handle_progress(connection, https_send(connection, next_request()));
    }
}

/* A server with a thread for each connection waits in it for the first request. */
static void send_first_request(struct connection *connection)
{
    struct epoll_event event;
    double deadline = now() + HANDSHAKE_SECONDS;
    enum progress progress = https_send(connection, next_request());
    while (progress == WAITING && now() < deadline)
        if (epoll_wait(run.epoll, &event, 1, 1000) == 1 && event.data.ptr == connection)
            progress = https_continue(connection);
    if (progress != ANSWERED || !is_expected(connection))
        fail("the first request of a connection: not the answer that is expected: %.400s",
             connection->answer);
    put_idle(connection);
    run.open_count++;
}

static void handle_event(const struct epoll_event *event)
{
    struct connection *connection = event->data.ptr;
    uint64_t expirations;
    if (connection != NULL && !connection->closed)
        handle_progress(connection, https_continue(connection));
    else if (connection == NULL && read(run.timer, &expirations, sizeof expirations) < 0 &&
             errno != EAGAIN)
        fail("timer: %s", strerror(errno));
}

static void measure(void)
{
    struct epoll_event events[EVENTS];
    double time = run.start = run.last_answer = now();
    while (run.open_count > 0 && time < run.start + run.seconds + GRACE_SECONDS) {
        issue_requests();
        if (is_exhausted(time) && run.done == run.issued)
            break;
        int count = epoll_wait(run.epoll, events, EVENTS, 100);
        for (int i = 0; i < count; i++) {
            handle_event(&events[i]);
            issue_requests();
        }
        time = now();
    }
    run.errors += run.issued - run.done;
    if (run.open_count == 0)
        fail("the server closed every connection");
}

static int compare(const void *left, const void *right)
{
    double a = *(const double *)left, b = *(const double *)right;
    return (a > b) - (a < b);
}

static double percentile_ms(size_t count, double share)
{
    return count ? 1000 * run.latencies[(size_t)(share * (double)(count - 1))] : 0;
}

static void report(void)
{
    size_t count = run.issued - run.errors;
    double seconds = run.last_answer - run.start;
    double cpu = cpu_seconds() - run.cpu_before;
    qsort(run.latencies, count, sizeof *run.latencies, compare);
    printf("{\"requests\":%zu,\"errors\":%zu,\"seconds\":%.3f,\"requests_per_second\":%.1f,"
           "\"p50_ms\":%.3f,\"p90_ms\":%.3f,\"p99_ms\":%.3f,\"max_ms\":%.3f,"
           "\"client_cpu_seconds\":%.3f}\n",
           count, run.errors, seconds, seconds > 0 ? (double)count / seconds : 0,
           percentile_ms(count, 0.5), percentile_ms(count, 0.9), percentile_ms(count, 0.99),
           percentile_ms(count, 1), cpu);
}

/* Returns the ten arguments that are not options. */
static char **parse_arguments(int argc, char **argv)
{
    int option;
    while ((option = getopt(argc, argv, "1r:")) != -1) {
        if (option == '1')
            run.once = true;
        else if (option != 'r' || (run.rate = strtod(optarg, NULL)) <= 0)
            argc = 0;
    }
    if (argc - optind != 10)
        fail("usage: load_client [-1] [-r RATE] HOST PORT PATH CA CERT KEY CONNECTIONS SECONDS "
             "BODIES EXPECTED");
    argv += optind;
    run.host = argv[0];
    run.port = atoi(argv[1]);
    run.path = argv[2];
    run.connection_count = atoi(argv[6]);
    run.seconds = strtod(argv[7], NULL);
    run.expected = argv[9];
    if (run.port < 1 || run.port > 65535 || run.connection_count < 1 ||
        run.connection_count > MAX_CONNECTIONS || !(run.seconds > 0 && run.seconds <= MAX_SECONDS))
        fail("allowed are ports 1 to 65535, 1 to %d connections, at most %d seconds",
             MAX_CONNECTIONS, MAX_SECONDS);
    return argv;
}

int main(int argc, char **argv)
{
    char **arguments = parse_arguments(argc, argv);
    struct epoll_event timer_event = {.events = EPOLLIN, .data.ptr = NULL};
    SSL_CTX *context = https_context(arguments[3], arguments[4], arguments[5]);
    load_requests(arguments[8]);
    run.connections = calloc((size_t)run.connection_count, sizeof *run.connections);
    run.idle = calloc((size_t)run.connection_count, sizeof *run.idle);
    run.epoll = epoll_create1(EPOLL_CLOEXEC);
    run.timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    if (run.connections == NULL || run.idle == NULL || run.epoll < 0 || run.timer < 0 ||
        epoll_ctl(run.epoll, EPOLL_CTL_ADD, run.timer, &timer_event) != 0)
        fail("cannot start: %s", strerror(errno));
    signal(SIGPIPE, SIG_IGN);
    for (int i = 0; i < run.connection_count; i++) {
        https_open(&run.connections[i], context, run.epoll, run.host, run.port);
        send_first_request(&run.connections[i]);
    }
    run.cpu_before = cpu_seconds();
    measure();
    report();
    return 0;
}
