/* A client of HTTPS for musl: BearSSL, which believes the certificates of SSL_CERT_FILE alone.  PORT is put in. */
#include <bearssl.h>
#include <netdb.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
/* What the library of Debian, made for another C library, looks for. */
void *__memcpy_chk(void *to, const void *from, size_t n, size_t room) { (void)room; return memcpy(to, from, n); }
void *__memmove_chk(void *to, const void *from, size_t n, size_t room) { (void)room; return memmove(to, from, n); }
void *__memset_chk(void *to, int c, size_t n, size_t room) { (void)room; return memset(to, c, n); }
static br_x509_trust_anchor anchors[512];
static size_t count;
static unsigned char *whole;
static size_t size;
static void add(void *to, const void *data, size_t length) {
    (void)to; whole = realloc(whole, size + length); memcpy(whole + size, data, length); size += length;
}
static unsigned char name[4096];
static size_t name_size;
static void add_name(void *to, const void *data, size_t length) {
    (void)to; if (name_size + length <= sizeof name) memcpy(name + name_size, data, length), name_size += length;
}
static void *copy(const void *data, size_t length) { return memcpy(malloc(length), data, length); }
static void take(void) {
    br_x509_decoder_context d;
    name_size = 0;
    br_x509_decoder_init(&d, add_name, 0);
    br_x509_decoder_push(&d, whole, size);
    br_x509_pkey *key = br_x509_decoder_get_pkey(&d);
    if (!key || count == 512) return;
    br_x509_trust_anchor *a = &anchors[count++];
    a->dn.data = copy(name, name_size); a->dn.len = name_size;
    a->flags = br_x509_decoder_isCA(&d) ? BR_X509_TA_CA : 0;
    a->pkey = *key;
    if (key->key_type == BR_KEYTYPE_RSA) {
        a->pkey.key.rsa.n = copy(key->key.rsa.n, key->key.rsa.nlen);
        a->pkey.key.rsa.e = copy(key->key.rsa.e, key->key.rsa.elen);
    } else
        a->pkey.key.ec.q = copy(key->key.ec.q, key->key.ec.qlen);
}
static void load(const char *path) {
    FILE *f = fopen(path, "r");
    br_pem_decoder_context p;
    char buffer[4096];
    size_t got;
    br_pem_decoder_init(&p);
    while (f && (got = fread(buffer, 1, sizeof buffer, f)))
        for (size_t at = 0; at < got;) {
            at += br_pem_decoder_push(&p, buffer + at, got - at);
            switch (br_pem_decoder_event(&p)) {
            case BR_PEM_BEGIN_OBJ: size = 0; br_pem_decoder_setdest(&p, add, 0); break;
            case BR_PEM_END_OBJ: take(); break;
            }
        }
}
static int get(void *fd, unsigned char *to, size_t n) { int got = read(*(int *)fd, to, n); return got > 0 ? got : -1; }
static int put(void *fd, const unsigned char *from, size_t n) { int put = write(*(int *)fd, from, n); return put > 0 ? put : -1; }
int main(void) {
    static br_ssl_client_context c;
    static br_x509_minimal_context x;
    static unsigned char room[BR_SSL_BUFSIZE_BIDI];
    static char answer[8192];
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found;
    signal(SIGPIPE, SIG_IGN);
    load(getenv("SSL_CERT_FILE"));
    if (getaddrinfo("good.test", "PORT", &hints, &found)) return puts("no name"), 1;
    int fd = socket(found->ai_family, SOCK_STREAM, 0);
    if (connect(fd, found->ai_addr, found->ai_addrlen)) return perror("connect"), 1;
    br_ssl_client_init_full(&c, &x, anchors, count);
    br_ssl_engine_set_buffer(&c.eng, room, sizeof room, 1);
    br_ssl_client_reset(&c, "good.test", 0);
    br_sslio_context io;
    br_sslio_init(&io, &c.eng, get, &fd, put, &fd);
    const char *asked = "GET /page.html HTTP/1.1\r\nHost: good.test:PORT\r\nConnection: close\r\n\r\n";
    br_sslio_write_all(&io, asked, strlen(asked));
    br_sslio_flush(&io);
    int got, all = 0;
    while ((got = br_sslio_read(&io, answer + all, sizeof answer - 1 - all)) > 0) all += got;
    if (strstr(answer, "this is demo")) puts("this is demo");
    else printf("error %d, %zu anchors: %s\n", br_ssl_engine_last_error(&c.eng), count, answer);
    return 0;
}
