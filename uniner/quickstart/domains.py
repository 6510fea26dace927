"""The domains of the quickstart corpus: sentence frames with typed slots, and sentences without entities.

All sentences were written for this project. A frame is short, and the words around a slot tell its type, so
that a nano model can learn the types from context.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Domain:
    """A kind of text: frames with entity types in braces, and fillers without entities."""

    name: str
    frames: tuple[str, ...]
    fillers: tuple[str, ...]


BUSINESS = Domain(
    name="business",
    frames=(
        "{company} opened an office in {city} on {date}.",
        "Shares of {company} fell by {percentage} after the report.",
        "{company} named {person} as its new chief executive.",
        "The board of {company} met in {city} last week.",
        "{company} bought its rival {company} for {amount of money}.",
        "Sales at {company} rose by {percentage} this year.",
        "Customers can order the new {product} from {company} online.",
        "The price of the {product} was set at {amount of money}.",
        "{person} founded {company} in a small garage.",
        "Investors put {amount of money} into {company} this spring.",
        "{company} will stop making the {product} on {date}.",
        "Workers in {city} now build the {product} by hand.",
        "Profits grew {percentage} thanks to demand for the {product}.",
        "{person} will leave the firm {company} on {date}.",
        "The factory in {city} cost {amount of money} to build.",
        "Analyst {person} expects prices to climb by {percentage}.",
        "A buyer in {city} returned the {product} after a week.",
        "The loan of {amount of money} must be repaid by {date}.",
        "Manager {person} moved from {city} to the head office.",
    ),
    fillers=(
        "The market stayed calm for the rest of the day.",
        "Nobody from the firm wanted to comment.",
        "Costs have been rising for several months.",
        "The staff were told about the plan by letter.",
        "Demand is expected to stay strong.",
        "A new report is due at the end of the quarter.",
        "The shop floor was quiet in the afternoon.",
    ),
)

MEDICINE = Domain(
    name="medicine",
    frames=(
        "Patients with {disease} were treated with {drug} for two weeks.",
        "The doctor prescribed {dosage} of {drug} every morning.",
        "{drug} is used to treat {disease} in adults.",
        "Doctors at {hospital} saw many cases of {disease} this winter.",
        "A nurse at {hospital} gave the patient {dosage} of {drug}.",
        "The tablet contains {dosage} of {drug} and some sugar.",
        "Symptoms of {disease} include cough and a mild headache.",
        "{person} was taken to {hospital} with signs of {disease}.",
        "The side effects of {drug} are usually mild.",
        "A daily dose of {dosage} is safe for most adults.",
        "Children should not take more than {dosage} of {drug}.",
        "Doctor {person} has worked at {hospital} for ten years.",
        "There is still no vaccine against {disease}.",
        "The new ward of {hospital} was opened on {date}.",
        "After taking {drug}, the patient slept well.",
        "{person} was diagnosed with {disease} on {date}.",
        "In the trial, {drug} cured {disease} in {percentage} of patients.",
        "Surgeons at {hospital} operated on {person} for six hours.",
        "About {percentage} of those infected with {disease} recover at home.",
    ),
    fillers=(
        "The patient was sent home the next day.",
        "Plenty of rest is advised in all cases.",
        "The blood test showed nothing unusual.",
        "Visitors are asked to wash their hands.",
        "The waiting room was full all morning.",
        "Most patients felt better within a week.",
        "More studies with larger groups are needed.",
    ),
)

BIOLOGY = Domain(
    name="biology",
    frames=(
        "The gene {gene} encodes the protein {protein} in mice.",
        "Mutations in {gene} make the cells grow too fast.",
        "Loss of {gene} lowers the level of {protein} in the liver.",
        "The species {species} lives only in cold mountain lakes.",
        "The enzyme {protein} breaks down {chemical} in the gut.",
        "Cells were washed with {chemical} before the test.",
        "Eggs of {species} hatch after twenty days.",
        "Expression of {gene} was high in the roots of {species}.",
        "The leaves of {species} contain small amounts of {chemical}.",
        "Antibodies that bind {protein} were added to the cells.",
        "The compound {chemical} is toxic to the larvae of {species}.",
        "The {gene} gene was deleted from the genome of {species}.",
        "The protein {protein} sits in the cell wall.",
        "Ten samples were heated with {chemical} for one hour.",
        "A mutant without {gene} was bred in the laboratory.",
        "The biologist {person} found {species} in ponds near {city}.",
        "When {chemical} is present, {protein} folds into a new shape.",
        "Only {percentage} of the seeds of {species} survived the frost.",
    ),
    fillers=(
        "The experiment was repeated three times.",
        "All cells were kept in the dark at low temperature.",
        "The result was the same in both groups.",
        "Water samples were taken every hour.",
        "The mechanism is not yet understood.",
        "Growth stopped after the fifth day.",
        "The slides were then studied under a microscope.",
    ),
)

SPORTS = Domain(
    name="sports",
    frames=(
        "{team} beat {team} in the final of the {tournament}.",
        "{athlete} scored two goals for {team} in the second half.",
        "The match was played at {stadium} in front of a full house.",
        "Striker {athlete} joined {team} on {date}.",
        "{athlete} won the {tournament} for the third time.",
        "Fans of {team} filled the stands of {stadium}.",
        "The {tournament} will be held in {city} next year.",
        "Goalkeeper {athlete} was injured during training.",
        "The coach of {team} praised {athlete} after the game.",
        "A new roof was built over {stadium} in {city}.",
        "The runner {athlete} broke the record on {date}.",
        "{team} lost at home to {team} by a single point.",
        "Rain stopped play at {stadium} for an hour.",
        "The opening round of the {tournament} begins on {date}.",
        "{team} paid {amount of money} for the defender {athlete}.",
        "The winner of the {tournament} receives {amount of money}.",
        "{stadium} has been the home ground of {team} since it opened.",
    ),
    fillers=(
        "The referee added five minutes at the end.",
        "The pitch was wet and heavy.",
        "Both sides missed many chances.",
        "The crowd stayed until the last whistle.",
        "Training starts again on Monday.",
        "It was the hardest game of the season.",
        "The result was never in doubt.",
    ),
)

TRAVEL = Domain(
    name="travel",
    frames=(
        "We stayed at {hotel} in the old part of {city}.",
        "{airline} flies from {airport} to {city} twice a day.",
        "The plane landed at {airport} late in the evening.",
        "The river {river} flows through the city of {city}.",
        "Climbers reached the summit of {mountain} on {date}.",
        "{city} is the largest city of {country} by far.",
        "Boats travel along {river} from spring to autumn.",
        "A room at {hotel} costs {amount of money} a night.",
        "The highest peak of {country} is {mountain} in the north.",
        "Travellers to {country} need a visa and a passport.",
        "The shuttle takes guests from {airport} to {hotel} for free.",
        "{airline} cancelled all its flights to {country} on {date}.",
        "Snow covers the slopes of {mountain} until June.",
        "Breakfast at {hotel} is served in the garden.",
        "The bridge over {river} was closed to cars.",
        "Our flight with {airline} left {airport} on time.",
        "A path leads from {river} to the top of {mountain}.",
        "Passengers of {airline} may take one small bag.",
        "Tourists in {country} often sail down {river} by night.",
        "Pilots of the airline {airline} went on strike on {date}.",
        "{hotel} offers tours to {mountain} every Sunday.",
        "Fog closed the runway of {airport} for hours.",
    ),
    fillers=(
        "The view from the window was wonderful.",
        "Bring warm clothes even in summer.",
        "The train was late again.",
        "Most shops close in the early afternoon.",
        "The road is narrow and steep.",
        "A good map is worth the money.",
        "The guide spoke slowly and clearly.",
    ),
)

SOFTWARE = Domain(
    name="software",
    frames=(
        "{software} was rewritten in the language {programming language} last year.",
        "Version {version} of {software} fixes a serious bug.",
        "The team at {company} released {software} on {date}.",
        "Programs written in {programming language} run on most phones.",
        "Please upgrade {software} to version {version} before you start.",
        "{person} designed the programming language {programming language} as a student.",
        "The compiler for {programming language} prints clear error messages.",
        "The app {software} crashes when the screen is turned.",
        "Support for {version} of the program ends on {date}.",
        "Users of {software} can now share files with one click.",
        "Developer {person} maintains {software} in her free time.",
        "The code was ported from {programming language} to {programming language} in a week.",
        "Release {version} adds a search box and a dark theme.",
        "{company} wrote its payment service in {programming language} from the start.",
        "Install {software} from the download page of {company}.",
        "The crash first appeared in release {version} on {date}.",
        "The plugin needs {software} and version {version} of the library.",
        "Memory use of {software} dropped by {percentage} after the patch.",
    ),
    fillers=(
        "The log file shows no errors.",
        "Restart the computer after the update.",
        "The tests pass on all machines.",
        "The manual explains each option.",
        "Backups are made every night.",
        "The page loads much faster now.",
        "Please report any problem to the maintainers.",
    ),
)

LAW = Domain(
    name="law",
    frames=(
        "The judges of {court} ruled against {company} on {date}.",
        "{person} was charged under the {law} with fraud.",
        "Under the {law}, employers must pay for overtime.",
        "Lawyer {person} took the case to {court} at once.",
        "The appeal was heard by {court} in {city}.",
        "Parliament in {country} passed the {law} on {date}.",
        "{court} ordered {company} to pay {amount of money} in damages.",
        "Section nine of the {law} protects tenants.",
        "The trial at {court} lasted for six weeks.",
        "{company} broke the {law} by hiding its losses.",
        "Judge {person} sentenced the thief to two years.",
        "A fine of {amount of money} was imposed by {court}.",
        "The witness {person} lives in {city} with her family.",
        "The {law} forbids smoking in all public buildings.",
        "{court} found that the {law} was not valid.",
        "A contract between {company} and {company} was signed on {date}.",
        "Police arrested {person} at a bank in {city}.",
    ),
    fillers=(
        "The jury needed only an hour.",
        "The decision can still be appealed.",
        "No reasons were given in public.",
        "The hearing was closed to the press.",
        "Both parties must share the costs.",
        "The evidence was weak and came late.",
        "A written opinion will follow.",
    ),
)

FOOD = Domain(
    name="food",
    frames=(
        "The cook at {restaurant} serves {dish} with fresh bread.",
        "Add two spoons of {ingredient} to the {dish} and stir.",
        "{dish} is a traditional meal from {country} for cold days.",
        "Guests at {restaurant} always order the {dish} first.",
        "Chop the {ingredient} finely and fry it in butter.",
        "The chef {person} opened {restaurant} in {city} last spring.",
        "Ground {ingredient} gives the {dish} its red colour.",
        "We ate {dish} for lunch and slept all afternoon.",
        "A dinner for two at {restaurant} costs {amount of money}.",
        "The recipe for {dish} needs a cup of {ingredient}.",
        "Farmers in {country} grow {ingredient} on the hills.",
        "Sprinkle some {ingredient} over the cake before baking.",
        "Book a table at {restaurant} before {date}.",
        "Waiters at {restaurant} wear long white aprons.",
        "In {city}, people eat {dish} at weddings.",
        "Wash the {ingredient} well and dry it with a cloth.",
        "Cook {person} taught her children to make {dish}.",
        "The menu of {restaurant} lists {dish} as a starter.",
    ),
    fillers=(
        "Bake it until the top is brown.",
        "Leave the pot on a low heat.",
        "The bread should be eaten warm.",
        "A pinch of salt is enough.",
        "The kitchen was hot and full of steam.",
        "Serve the soup in deep bowls.",
        "Let the dough rest for an hour.",
    ),
)

ASTRONOMY = Domain(
    name="astronomy",
    frames=(
        "The planet {planet} orbits the star {star} every nine days.",
        "The probe {spacecraft} flew past the planet {planet} on {date}.",
        "Astronomers used {telescope} to observe the star {star}.",
        "The light of {star} takes eighty years to reach us.",
        "{spacecraft} was launched into orbit on {date}.",
        "The atmosphere of {planet} is made of thick clouds.",
        "Images from {telescope} show rings around {planet}.",
        "The mission of {spacecraft} cost {amount of money} in all.",
        "{star} is twice as hot and bright as the sun.",
        "Astronomer {person} discovered {planet} with {telescope}.",
        "The spacecraft {spacecraft} landed on the surface of {planet}.",
        "The main mirror of {telescope} was cleaned this month.",
        "Three small moons circle around the planet {planet}.",
        "A huge flare was seen on the star {star}.",
        "Engineers lost contact with {spacecraft} near {planet}.",
        "{telescope} stands on a high hill in {country}.",
        "The crew of {spacecraft} returned to earth on {date}.",
        "Night after night, {telescope} scans the sky for comets.",
        "Dust hides the star {star} from most observers.",
    ),
    fillers=(
        "The sky was clear all night.",
        "The signal was very weak.",
        "The surface is covered with ice.",
        "No sign of water has been found.",
        "The data will be studied for years.",
        "Clouds made further work impossible.",
        "The next eclipse is far away.",
    ),
)

DOMAINS: tuple[Domain, ...] = (BUSINESS, MEDICINE, BIOLOGY, SPORTS, TRAVEL, SOFTWARE, LAW, FOOD, ASTRONOMY)
