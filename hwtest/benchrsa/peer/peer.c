// OpenSSL's side of the benchmark: told what to do line by line, so that its
// slices and the other side's take turns.
//
//   key HEX          a PKCS#8 private key          ok BITS
//   private BITS NS  raw private-key operations    COUNT NS
//   public BITS NS   raw public-key operations     COUNT NS
//   version                                        one line
//   clock            the processor's clock         HZ
//
// Times are the thread's CPU time. An operation goes on until NS have passed.

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/rsa.h>
#include <openssl/x509.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { MAX_KEYS = 3, MAX_BYTES = 512 };

struct key {
	int bits;
	EVP_PKEY_CTX *private, *public;
	unsigned char in[MAX_BYTES], signed_[MAX_BYTES];
};

static struct key keys[MAX_KEYS];
static int count;

static void fail(const char *what) {
	fprintf(stderr, "peer: %s\n", what);
	exit(1);
}

static long long now(void) {
	struct timespec t;
	if (clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t) != 0) fail("no clock");
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static struct key *find(int bits) {
	for (int i = 0; i < count; i++)
		if (keys[i].bits == bits) return &keys[i];
	fail("no such key");
	return NULL;
}

static EVP_PKEY_CTX *context(EVP_PKEY *k, int (*init)(EVP_PKEY_CTX *)) {
	EVP_PKEY_CTX *c = EVP_PKEY_CTX_new(k, NULL);
	if (c == NULL || init(c) <= 0 || EVP_PKEY_CTX_set_rsa_padding(c, RSA_NO_PADDING) <= 0) fail("context");
	return c;
}

static void private_op(struct key *k) {
	size_t n = MAX_BYTES;
	if (EVP_PKEY_decrypt(k->private, k->signed_, &n, k->in, k->bits / 8) <= 0) fail("private operation");
}

static void public_op(struct key *k, unsigned char *out) {
	size_t n = MAX_BYTES;
	if (EVP_PKEY_encrypt(k->public, out, &n, k->signed_, k->bits / 8) <= 0) fail("public operation");
}

static void load(const char *hex) {
	static unsigned char der[8192];
	size_t n = 0;
	for (; hex[0] && hex[1] && n < sizeof der; hex += 2, n++) {
		unsigned v;
		if (sscanf(hex, "%2x", &v) != 1) fail("key is not hexadecimal");
		der[n] = v;
	}
	const unsigned char *p = der;
	EVP_PKEY *pkey = d2i_AutoPrivateKey(NULL, &p, n);
	if (pkey == NULL || count == MAX_KEYS) fail("key");
	struct key *k = &keys[count++];
	k->bits = EVP_PKEY_bits(pkey);
	if (k->bits > 8 * MAX_BYTES) fail("key is too long");
	k->private = context(pkey, EVP_PKEY_decrypt_init);
	k->public = context(pkey, EVP_PKEY_encrypt_init);
	for (int i = 1; i < k->bits / 8; i++) k->in[i] = i;
	unsigned char back[MAX_BYTES];
	private_op(k);
	public_op(k, back);
	if (memcmp(back, k->in, k->bits / 8) != 0) fail("operations do not fit");
	printf("ok %d\n", k->bits);
}

static void run(struct key *k, int private, long long least) {
	unsigned char out[MAX_BYTES];
	long long n = 0, start = now(), t;
	do {
		for (int i = private ? 1 : 16; i > 0; i--, n++)
			if (private) private_op(k);
			else public_op(k, out);
	} while ((t = now() - start) < least);
	printf("%lld %lld\n", n, t);
}

// A chain of additions takes a cycle for each.
static void measure(void) {
	const long long rounds = 10000000;
	unsigned long long x = 0;
	long long best = 0;
	for (int i = 0; i < 5; i++) {
		long long start = now();
		for (long long r = 0; r < rounds; r++)
			__asm__ volatile(
				"add $1,%0\n\tadd $1,%0\n\tadd $1,%0\n\tadd $1,%0\n\t"
				"add $1,%0\n\tadd $1,%0\n\tadd $1,%0\n\tadd $1,%0\n\t" : "+r"(x));
		long long hz = (long long)(8.0 * rounds * 1e9 / (now() - start));
		if (hz > best) best = hz;
	}
	printf("%lld\n", best);
}

int main(void) {
	static char line[32768];
	while (fgets(line, sizeof line, stdin)) {
		int bits;
		long long ns;
		line[strcspn(line, "\n")] = 0;
		if (strncmp(line, "key ", 4) == 0) load(line + 4);
		else if (sscanf(line, "private %d %lld", &bits, &ns) == 2) run(find(bits), 1, ns);
		else if (sscanf(line, "public %d %lld", &bits, &ns) == 2) run(find(bits), 0, ns);
		else if (strcmp(line, "version") == 0) printf("%s\n", OpenSSL_version(OPENSSL_VERSION));
		else if (strcmp(line, "clock") == 0) measure();
		else fail("unknown command");
		fflush(stdout);
	}
	return 0;
}
