#include "services/trainer/prose.h"

#include <stdio.h>

#include "base/buf.h"
#include "base/file.h"
#include "base/json.h"

enum { ROWS_MAX = 1 << 20, PROMPT_WORDS = 7 };

const char *const PROSE[PROSE_PASSAGES] = {
    "Bread needs little more than flour, water, salt and time. The yeast eats the sugar in the dough and gives off a gas that makes it rise. A baker who is in a hurry adds more yeast, but the loaf will taste of less. Good crust comes from a hot oven and from steam in the first minutes.",
    "A tide is the slow breathing of the sea under the pull of the moon. Twice a day the water climbs the harbour wall and twice it leaves the boats lying on the mud. When sun and moon stand in one line the difference is greatest, and sailors call it a spring tide. Fishermen keep a printed table of the hours on the wall beside the door.",
    "My grandmother kept bees behind the orchard for almost fifty years. She said that a calm hive hums in one note, and that an angry one can be heard from the gate. In spring she counted the frames and left most of the honey from the year before for the colony. Only in August did she take her share, in the cool of the early morning.",
    "The old railway bridge was built from iron that came down the valley on carts. Each rivet was heated until it glowed, thrown to a man with a bucket, and hammered flat while it was soft. Engineers tested the finished span by parking six locomotives on it for a night. It sank by less than the width of a finger and has carried trains ever since.",
    "Children learn to read long before they can spell. They guess the word from its first letter, from the picture on the page and from what would make sense. A patient teacher lets the guess stand until the end of the sentence. Then she asks the class whether the story still fits together.",
    "The surgeon washed her hands for three full minutes before every operation. She had been taught that most infections travel on the skin and not in the air. In the theatre each instrument lay in its place, and the nurse counted them aloud. They were counted a second time before the wound was closed.",
    "A volcano gives warning if somebody is listening. The ground swells by a few centimetres, small earthquakes come in swarms, and the springs on its slopes turn warm. Instruments around the crater send these signs to an observatory in the town. When all of them rise together, the villages below are told to leave.",
    "Chess is won more often by patience than by brilliance. A beginner looks for the move that attacks, and a master for the square where a knight will be needed later. Most games at a club are decided by one pawn that was pushed too early. After the last move both players usually set up the position again and argue about it.",
    "Wool is shorn once a year, when the nights are no longer cold. The fleece comes off in one piece and is thrown on a table to be sorted by hand. Fine fibres from the shoulders go to the spinner, and the coarse ones from the legs become carpets. A practised shearer needs less than three minutes for a sheep.",
    "The court met in a room above the market hall. Two neighbours had quarrelled for years over a hedge that stood on the line between their fields. The judge walked out to look at it, measured the distance with a rope, and said nothing until the afternoon. Her sentence was short: the hedge would stay, and each of them would cut one side of it.",
    "A telescope gathers light as a bucket gathers rain. The wider its mirror, the fainter the stars that it can show. Astronomers build them on dry mountains because damp air makes the image tremble. Some of the light that falls on the glass tonight left its galaxy before there were people.",
    "Rice is planted in flooded fields, and the water keeps most weeds away. The seedlings grow close together in a nursery and are moved by hand when they are as long as a forearm. For weeks the farmer watches the level and opens a small gate after every storm. The field is drained before the harvest so that the stalks can dry.",
    "The violin maker chose a plank of spruce by knocking on it. Wood that rings clearly is cut thin for the belly of the instrument, and maple is bent for its ribs. The varnish takes longer to dry than all the rest takes to build. When the strings are put on for the first time, the sound is still hard and needs years of playing.",
    "Vaccines show the body a harmless piece of an enemy. White cells remember its shape and make the right defence within days if it ever comes again. Before they were known, smallpox killed one child in ten in many cities. Today that disease exists only in two guarded freezers.",
    "A good map leaves out almost everything. The walker wants the paths and the height of the hills, the driver the roads, the pilot the towers. Whoever draws it decides what a stranger will be able to find. That is why old maps tell as much about their makers as about the land.",
    "The price of coffee is made in two cities that grow none. Traders there buy next year's harvest before the trees have flowered. A night of frost in the highlands can double the price by breakfast. The farmer hears of it on the radio and has often sold his sacks already.",
    "Snow that looks safe can lie on a layer of loose crystals. One skier is enough to break it, and the whole slope begins to slide. Guides dig a pit, tap the wall with a shovel and watch at which blow it gives way. If it breaks early they turn back, however blue the sky is.",
    "The theatre company rehearsed in a garage because the stage was being repaired. The actors marked the doors with tape on the concrete floor and spoke their lines over the noise of the street. On the night of the premiere they still walked around walls that were no longer there. Nobody in the audience noticed, and the applause was long.",
    "Soap is made by boiling fat with lye. The two turn into something that holds on to grease at one end and to water at the other. So it lifts dirt from the cloth and lets it be rinsed away. Ash from the fireplace was the lye of earlier centuries.",
    "The river used to change its bed every few years. Farmers built dykes of clay and willow, and the water, held between them, began to run faster and to cut deeper. Then a flood came over the top and stayed in the fields until summer. Now some of the meadows are left open for the river on purpose.",
    "An elevator would never have been trusted without its brake. The inventor stood on the platform high above a crowd and had the rope cut with an axe. The cabin dropped by a hand's width and stopped. Within a few years houses grew taller than six floors.",
    "Sleep is not rest for the brain. In the dark it goes through the day again, keeps what is new and lets go of what is useless. People who are woken each time they dream learn badly the next morning. Even a short nap after lunch makes a list of words easier to recall.",
    "The baker's cat and the postman's dog were the only enemies in our street. Every morning at seven the cat sat on the wall and the dog pulled at his lead below it. Neither had ever touched the other. When the dog died, the cat still came to the wall for weeks and looked down the road.",
    "Glass is sand that has forgotten how to be solid. At a great heat it flows like honey and can be blown, pressed or drawn into threads. If it cools too quickly it breaks by itself, so it spends a night in a warm oven. The first windows were small because no one could make a flat sheet larger than a plate.",
    "The football club had lost nine matches in a row when the new coach came. She did not speak about tactics but let them play with their shoes tied together in pairs. They laughed for the first time in weeks and began to look at each other. The tenth match ended in a draw, and the town celebrated as if it had been the cup.",
    "A password should be long rather than clever. Four common words that have nothing to do with each other are harder to guess than one name with a number behind it. Using the same one at two places gives a thief two doors for one key. A notebook in a drawer is a better memory than none.",
    "The desert is full of life that waits. Seeds lie in the sand for ten years until one heavy rain wakes all of them in a night. Then there are flowers as far as one can see, and insects that nobody had missed. After three weeks everything is dust again, with new seeds in it.",
    "Printing began with letters cut from wood, one page to a block. Movable type of metal made it possible to use every letter again. A skilled compositor set two thousand of them in an hour, upside down and from right to left. The trays with the capital letters lay above the others, and so they were called the upper case.",
    "The electric car stands still for twenty-three hours of the day. In that time its battery could give power back to the house and take it again at night. The network would need fewer plants that run only in the evening. What is missing is not the technique but a tariff that pays for it.",
    "Elephants recognise their own dead. They stop at the bones, turn them with their trunks, and stand around them in silence. An old female leads the herd to water that she may have seen only once, decades ago. Where the oldest were shot, the young ones lose their way.",
    "The tailor measured the customer twice and wrote the numbers on the inside of the cloth. A jacket is sewn loosely first, tried on, and taken apart again. What looks like one piece has more than forty. The shoulder is the hardest of them, because it must sit well on a person who moves.",
    "Democracy was once decided by lot. In the old city the names of the citizens were drawn from a jar, and whoever was drawn sat on the council for a year. They held that elections favour those who are rich or loud. The generals alone were chosen by vote, since a war should not be left to chance.",
    "A lock on a canal lifts a ship without any engine. The gates are closed behind it and a valve lets the upper water in until both levels are the same. Every passage costs as much water as the chamber holds. In dry summers the keepers wait until two boats can go up together.",
    "Salt was worth as much as silver in places far from the sea. Whole towns lived from a mine, and their names still tell of it. Meat and fish could not be kept through the winter without it. A tax on it started more than one revolt.",
    "The chess clock of the kitchen is the egg timer. Five minutes give a soft yolk and nine a hard one, if the egg comes from the refrigerator and the water is boiling. On a mountain it takes longer, because the water boils before it is really hot. A pinch of vinegar keeps a cracked shell from spilling.",
    "Migrating birds find their way by the stars, the sun and the field of the earth. Young cuckoos fly to another continent alone, without ever having met their parents. Ringing them showed where they go, and small transmitters now show where they stop. Many never arrive, because the marsh at which they used to rest has been drained.",
    "The library lends more than books. There are seeds in small paper bags, a sewing machine, and a drill that half the quarter has used. Whoever takes tomatoes in spring brings some of their seeds back in autumn. The librarian keeps the list by hand, and nothing has been lost so far.",
    "Concrete hardens under water as well as in the air. The builders of the ancient harbour mixed lime with ash from a volcano and let it down between wooden walls. Sea water made it stronger as the centuries went by. Modern mixtures set within hours, but few of them are expected to last a hundred years.",
    "A joke depends on what is not said. The listener is led along one path and finds at the last word that he has been on another. Explain it, and it is over. That may be why jokes are the last thing that one understands in a foreign language.",
    "The lighthouse on the reef was run by three men, so that two would never be alone with each other. They cooked in turns, painted the railings against the rust, and wound the clockwork of the lamp every four hours. A boat brought letters when the weather allowed. Today a computer on the mainland switches the light, and seals sleep on the landing.",
};

void prose_halves(int passage, struct span *first, struct span *second) {
    struct span all = span_str(PROSE[passage]);
    size_t at = 0;
    for (int i = 0; i < PROSE_SENTENCES / 2; i++) {
        ptrdiff_t end = span_find(span_skip(all, at), SPAN(". "));
        ASSERT(end >= 0);
        at += (size_t)end + 2;
    }
    *first = span_sub(all, 0, at - 1);
    *second = span_skip(all, at);
}

static void put_row(struct buf *out, const char *id, const char *key, struct span text) {
    struct json_out w;
    json_begin(&w, out);
    json_object(&w);
    if (id) json_str(&w, "id", id);
    json_span(&w, key, text);
    json_object_end(&w);
    (void)buf_append_char(out, '\n');
}

/* The first words of a sentence, to be gone on with. */
static struct span beginning(struct span sentence) {
    size_t end = 0;
    for (int words = 0; end < sentence.len; end++)
        if (sentence.data[end] == ' ' && ++words == PROMPT_WORDS) break;
    return span_sub(sentence, 0, end);
}

int prose_write(const char *documents, const char *prompts, struct error *err) {
    struct buf texts, rows;
    char id[32];
    buf_init(&texts, ROWS_MAX);
    buf_init(&rows, ROWS_MAX);
    for (int i = 0; i < PROSE_PASSAGES; i++) {
        struct span rest = span_str(PROSE[i]);
        (void)snprintf(id, sizeof id, "prose-%d", i);
        put_row(&texts, id, "text", rest);
        for (int k = 0; k < PROSE_SENTENCES; k++) {
            ptrdiff_t end = span_find(rest, SPAN(". "));
            put_row(&rows, NULL, "prompt", beginning(rest));
            if (end >= 0) rest = span_skip(rest, (size_t)end + 2);
        }
    }
    int r = texts.failed || rows.failed ? error_set(err, E_NOMEM, "no memory for the built-in prose") : file_write(documents, buf_span(&texts), 0600, err);
    if (r == 0) r = file_write(prompts, buf_span(&rows), 0600, err);
    buf_fini(&texts);
    buf_fini(&rows);
    return r;
}
