/* Makes the vendor's chip simulators usable on few cores. Preloaded into the engine's process, nowhere else.
 *
 * bm1684x: the simulator's engine threads hand work to each other by spinning on a mutex, for ever. With fewer cores
 * than threads the one that spins keeps its core for a whole time slice while the one with the work waits; giving
 * the core away after some of the unlocks ends that. One that has found no work for a while naps, the longer
 * the later, up to BUSY_SLEEP_US: on two cores with two busy processes beside, a decode step of 13 million
 * weights took 1.5 s, half of it saved, and they got half as much again done. While no work is expected (the
 * engine sets hf2bmodel_idle) all nap for long, and the machine has its cores back.
 * bm1688: the completion thread sleeps 200 ms after each launch; it need not.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <sched.h>
#include <time.h>
#include <unistd.h>

enum { UNLOCKS_PER_YIELD = 16, BUSY_SLEEP_US = 100, IDLE_SLEEP_US = 5000 };
/* Who takes longer for so many unlocks did some work. A nap is a share of the time waited before. Of 0.1, 0.3 and 1 ms
 * before the first nap, the shorter left others more of the cores, the longer kept tiny nets faster: between them. */
enum { WORK_NS = 20000, YIELD_NS = 200000, SHARE = 8 };

volatile int hf2bmodel_idle;

static int (*real_unlock)(pthread_mutex_t *);

static int longest_sleep(void) { return hf2bmodel_idle ? IDLE_SLEEP_US : BUSY_SLEEP_US; }

static void nap(long us) {
  struct timespec time = {0, us * 1000};
  nanosleep(&time, NULL);
}

static long now_ns(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return time.tv_sec * 1000000000L + time.tv_nsec;
}

/* Of a thread that has found no work for so long: the longer it is, the longer it can sleep without that being felt. */
static void rest(long waited_ns) {
  if (hf2bmodel_idle) nap(IDLE_SLEEP_US);
  else if (waited_ns < YIELD_NS) sched_yield();
  else {
    long us = waited_ns / 1000 / SHARE;
    nap(us < BUSY_SLEEP_US ? us : BUSY_SLEEP_US);
  }
}

int pthread_mutex_unlock(pthread_mutex_t *mutex) {
  static __thread unsigned unlocks;
  static __thread long since, looked;
  if (!real_unlock) real_unlock = (int (*)(pthread_mutex_t *))dlsym(RTLD_NEXT, "pthread_mutex_unlock");
  int result = real_unlock(mutex);
  if (++unlocks % UNLOCKS_PER_YIELD == 0) {
    long now = now_ns();
    if (now - looked > WORK_NS) since = now;
    rest(now - since);
    looked = now_ns();
  }
  return result;
}

int usleep(useconds_t duration) {
  nap((long)duration < longest_sleep() ? (long)duration : longest_sleep());
  return 0;
}
