/* The least that a program can do: threads that pwrite a block somewhere and fsync it.
 *
 *   sync_loop FILE BYTES BLOCK_SIZE THREADS SECONDS
 *
 * Prints synced writes a second.  Each thread opens the file for itself and has its own
 * blocks, as disk-checker's do.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { MOST = 256 };

static const char *path;
static unsigned long block_size, blocks, threads;
static volatile int over;
static unsigned long counts[MOST];

static void fail(const char *what)
{
	perror(what);
	exit(1);
}

static void *work(void *argument)
{
	unsigned long me = (unsigned long)argument, state = me + 1;
	int file = open(path, O_RDWR);
	unsigned char *block = malloc(block_size);

	if (file < 0 || block == NULL)
		fail(path);
	for (unsigned long at = 0; at < block_size; at++)
		block[at] = (unsigned char)(at * 31 + me);
	while (!over) {
		state = state * 6364136223846793005UL + 1442695040888963407UL;
		unsigned long index = (state >> 33) % (blocks / threads) * threads + me;

		memcpy(block, &state, sizeof state);
		if (pwrite(file, block, block_size, (off_t)(index * block_size)) != (ssize_t)block_size)
			fail("pwrite");
		if (fsync(file) != 0)
			fail("fsync");
		counts[me]++;
	}
	close(file);
	free(block);
	return NULL;
}

int main(int count, char **words)
{
	pthread_t started[MOST];
	unsigned long sum = 0;

	if (count != 6) {
		fprintf(stderr, "usage: sync_loop FILE BYTES BLOCK_SIZE THREADS SECONDS\n");
		return 2;
	}
	path = words[1];
	block_size = strtoul(words[3], NULL, 10);
	blocks = strtoul(words[2], NULL, 10) / block_size;
	threads = strtoul(words[4], NULL, 10);
	double seconds = strtod(words[5], NULL);

	if (threads < 1 || threads > MOST || blocks < threads)
		return 2;
	for (unsigned long me = 0; me < threads; me++)
		if (pthread_create(&started[me], NULL, work, (void *)me) != 0)
			fail("pthread_create");
	nanosleep(&(struct timespec){(time_t)seconds, (long)((seconds - (time_t)seconds) * 1e9)}, NULL);
	over = 1;
	for (unsigned long me = 0; me < threads; me++) {
		pthread_join(started[me], NULL);
		sum += counts[me];
	}
	printf("%.0f\n", sum / seconds);
	return 0;
}
