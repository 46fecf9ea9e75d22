/* A small pool of threads. Workers spin for a moment after a job, since the next operator follows
 * within microseconds, and sleep when none comes. */
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>

#include "internal.h"

enum { SPINS = 4000 };

typedef struct {
  ptq_pool *pool;
  pthread_t thread;
  int number;
} worker;

struct ptq_pool {
  pthread_mutex_t mutex, owner;
  pthread_cond_t wake;
  atomic_uint generation; /* of the current job */
  atomic_int running;     /* workers that have not finished it */
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

static void *work(void *argument) {
  worker *w = argument;
  ptq_pool *pool = w->pool;
  for (unsigned seen = 0;;) {
    seen = next_job(pool, seen);
    if (atomic_load(&pool->stop)) return NULL;
    pool->job(pool->context, w->number);
    atomic_fetch_sub_explicit(&pool->running, 1, memory_order_release);
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
  atomic_store(&pool->running, pool->count);
  announce(pool);
  job(context, 0);
  for (int i = 0; atomic_load_explicit(&pool->running, memory_order_acquire) > 0; i++)
    if (i < SPINS)
      pause_cpu();
    else
      sched_yield();
}
