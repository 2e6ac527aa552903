/* Makes the vendor's chip simulators usable on few cores. Preloaded into the engine's process, nowhere else.
 *
 * bm1684x: the simulator's engine threads hand work to each other by spinning on a mutex, for ever. With fewer cores
 * than threads the one that spins keeps its core for a whole time slice while the one with the work waits; giving
 * the core away after some of the unlocks ends that. While no work is expected (the engine sets
 * hf2bmodel_idle) they nap instead, and the machine has its cores back.
 * bm1688: the completion thread sleeps 200 ms after each launch; it need not.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <sched.h>
#include <time.h>
#include <unistd.h>

enum { UNLOCKS_PER_YIELD = 16, BUSY_SLEEP_US = 100, IDLE_SLEEP_US = 5000 };

volatile int hf2bmodel_idle;

static int (*real_unlock)(pthread_mutex_t *);

static int longest_sleep(void) { return hf2bmodel_idle ? IDLE_SLEEP_US : BUSY_SLEEP_US; }

static void nap(long us) {
  struct timespec time = {0, us * 1000};
  nanosleep(&time, NULL);
}

int pthread_mutex_unlock(pthread_mutex_t *mutex) {
  static __thread unsigned unlocks;
  if (!real_unlock) real_unlock = (int (*)(pthread_mutex_t *))dlsym(RTLD_NEXT, "pthread_mutex_unlock");
  int result = real_unlock(mutex);
  if (++unlocks % UNLOCKS_PER_YIELD == 0) {
    if (hf2bmodel_idle) nap(IDLE_SLEEP_US);
    else sched_yield();
  }
  return result;
}

int usleep(useconds_t duration) {
  nap((long)duration < longest_sleep() ? (long)duration : longest_sleep());
  return 0;
}
