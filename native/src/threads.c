/* A small pool of threads. Workers spin for a moment after a job, since the next operator follows
 * within microseconds, and sleep when none comes. The caller never waits for a worker that has not
 * joined the job: on a busy machine the system may let it run only milliseconds later. */
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>

#include "internal.h"

enum { SPINS = 4000, CLOSED = 1 << 20 };

typedef struct {
  ptq_pool *pool;
  pthread_t thread;
  int number;
} worker;

struct ptq_pool {
  pthread_mutex_t mutex, owner;
  pthread_cond_t wake;
  atomic_uint generation; /* of the current job */
  atomic_int joined;      /* workers at it; less CLOSED once nobody may join any more */
  atomic_bool stop;
  ptq_job *job;
  void *context;
  int count;
  worker workers[];
};

static void pause_cpu(void) {
#if PTQ_X86
  __builtin_ia32_pause();
#else
  sched_yield();
#endif
}

static unsigned next_job(ptq_pool *pool, unsigned seen) {
  for (int i = 0; i < SPINS; i++) {
    if (atomic_load_explicit(&pool->generation, memory_order_acquire) != seen) break;
    pause_cpu();
  }
  if (atomic_load(&pool->generation) == seen) {
    pthread_mutex_lock(&pool->mutex);
    while (atomic_load(&pool->generation) == seen) pthread_cond_wait(&pool->wake, &pool->mutex);
    pthread_mutex_unlock(&pool->mutex);
  }
  return atomic_load(&pool->generation);
}

/* Take part in the current job if it is still open. */
static void join(ptq_pool *pool, int number) {
  int now = atomic_load(&pool->joined);
  do {
    if (now < 0) return;
  } while (!atomic_compare_exchange_weak(&pool->joined, &now, now + 1));
  pool->job(pool->context, number);
  atomic_fetch_sub(&pool->joined, 1);
}

static void *work(void *argument) {
  worker *w = argument;
  ptq_pool *pool = w->pool;
  for (unsigned seen = 0;;) {
    seen = next_job(pool, seen);
    if (atomic_load(&pool->stop)) return NULL;
    join(pool, w->number);
  }
}

static void announce(ptq_pool *pool) {
  pthread_mutex_lock(&pool->mutex);
  atomic_fetch_add(&pool->generation, 1);
  pthread_cond_broadcast(&pool->wake);
  pthread_mutex_unlock(&pool->mutex);
}

ptq_pool *ptq_pool_create(int threads) {
  ptq_pool *pool = calloc(1, sizeof *pool + (size_t)threads * sizeof *pool->workers);
  if (!pool) return NULL;
  atomic_init(&pool->joined, -CLOSED);
  pthread_mutex_init(&pool->mutex, NULL);
  pthread_mutex_init(&pool->owner, NULL);
  pthread_cond_init(&pool->wake, NULL);
  for (int i = 0; i < threads - 1; i++) {
    worker *w = &pool->workers[i];
    *w = (worker){.pool = pool, .number = i + 1};
    if (pthread_create(&w->thread, NULL, work, w) != 0) {
      ptq_pool_free(pool);
      return NULL;
    }
    pool->count++;
  }
  return pool;
}

void ptq_pool_free(ptq_pool *pool) {
  if (!pool) return;
  atomic_store(&pool->stop, true);
  announce(pool);
  for (int i = 0; i < pool->count; i++) pthread_join(pool->workers[i].thread, NULL);
  pthread_cond_destroy(&pool->wake);
  pthread_mutex_destroy(&pool->owner);
  pthread_mutex_destroy(&pool->mutex);
  free(pool);
}

bool ptq_pool_try(ptq_pool *pool) { return pthread_mutex_trylock(&pool->owner) == 0; }
void ptq_pool_release(ptq_pool *pool) { pthread_mutex_unlock(&pool->owner); }

void ptq_pool_run(ptq_pool *pool, ptq_job *job, void *context) {
  pool->job = job;
  pool->context = context;
  atomic_store(&pool->joined, 0);
  announce(pool);
  job(context, 0);
  atomic_fetch_sub(&pool->joined, CLOSED);
  for (int i = 0; atomic_load(&pool->joined) != -CLOSED; i++)
    if (i < SPINS)
      pause_cpu();
    else
      sched_yield();
}
