#define CHD_RING_MAGIC ...
#define CHD_RING_CAPACITY ...
#define CHD_RING_KEPT ...
#define CHD_READER_JOURNAL ...
#define CHD_READER_LOG ...
#define CHD_READER_SIGNALS ...

struct chd_event {
        ...;
};

struct chd_ring {
        uint64_t magic;
        uint8_t instance[16];
        uint64_t start_nsec;
        uint64_t log_nsec;
        uint64_t first_ticket;
        uint32_t boot;
        uint32_t drop_when_full;
        uint64_t created_nsec;
        ...;
};

static uint64_t chd_ring_size(void);
static int chd_ring_copy(struct chd_ring *ring, uint64_t position, struct chd_event *out, int max,
                         uint64_t *lost);
static int chd_ring_sleep(struct chd_ring *ring, int reader, uint64_t position);
static void chd_ring_start_boot(struct chd_ring *ring, uint64_t start_nsec, uint64_t log_nsec);
static uint64_t chd_ring_head(struct chd_ring *ring);
static uint64_t chd_ring_position(struct chd_ring *ring, int reader);
static void chd_ring_move(struct chd_ring *ring, int reader, uint64_t position);
static uint64_t chd_ring_used(struct chd_ring *ring);
static void chd_ring_hold(struct chd_ring *ring, uint64_t held, uint64_t until);
static uint64_t chd_ring_held(struct chd_ring *ring);
static uint64_t chd_ring_dropped(struct chd_ring *ring);
static uint64_t chd_ring_stalled_nsec(struct chd_ring *ring);
static uint64_t chd_ring_skip(struct chd_ring *ring, uint64_t count);
static uint64_t chd_ring_first_entry_nsec(struct chd_ring *ring);
static uint32_t chd_ring_forbidden_call(struct chd_ring *ring);
static int chd_ring_last_code(struct chd_ring *ring);
static int chd_ring_write(struct chd_ring *ring, int vcpu, int code, int wake_sinks,
                          int wake_signals);

struct chd_entry_text {
        const char *head;
        size_t head_size;
        const char *tail;
        size_t tail_size;
};

static int chd_journal_drain(struct chd_ring *ring, int fd, const struct chd_entry_text *texts,
                             uint32_t boot, int max, int *problem);
